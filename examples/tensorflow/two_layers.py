"""IPDC's third example: a network whose hidden layer is on one task and whose output layer is on the other learns
x*x - 0.5 with noise. What it has learnt comes back as jobs/ID/part-00000, a tar with model.npz.

    echo '{"local": [0, 1]}' >ClusterSpec.conf
    ipdc-edge tf plan && ipdc-edge tf up && ipdc-edge tf run two_layers.py --steps 1000; ipdc-edge tf down
"""

import argparse
import json
import os

import numpy as np
import tensorflow as tf

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=1000)
steps = parser.parse_args().steps

tf1 = tf.compat.v1
cluster = json.loads(os.environ["ipdc_cluster"])
random = np.random.default_rng(1)
x_data = np.linspace(-1, 1, 300, dtype=np.float32)[:, np.newaxis]
y_data = np.square(x_data) - 0.5 + random.normal(0, 0.05, x_data.shape).astype(np.float32)

with tf.Graph().as_default():
    x, y = tf1.placeholder(tf.float32, [None, 1]), tf1.placeholder(tf.float32, [None, 1])
    with tf.device("/job:local/task:1"):
        weights1 = tf1.Variable(tf1.random_normal([1, 10], seed=1), name="weights1")
        biases1 = tf1.Variable(tf1.zeros([1, 10]) + 0.1, name="biases1")
        hidden = tf.nn.relu(tf.matmul(x, weights1) + biases1)
    with tf.device("/job:local/task:0"):
        weights2 = tf1.Variable(tf1.random_normal([10, 1], seed=2), name="weights2")
        biases2 = tf1.Variable(tf1.zeros([1, 1]) + 0.1, name="biases2")
        prediction = tf.matmul(hidden, weights2) + biases2
        loss = tf.reduce_mean(tf.reduce_sum(tf.square(y - prediction), axis=[1]))
        step = tf1.train.GradientDescentOptimizer(0.1).minimize(loss)
    bounded = tf1.ConfigProto(operation_timeout_in_ms=20_000)
    with tf1.Session(f"grpc://{cluster['local'][0]}", config=bounded) as session:
        session.run(tf1.global_variables_initializer())
        for number in range(steps + 1):
            _, error = session.run([step, loss], {x: x_data, y: y_data})
            if number % 100 == 0:
                print(f"{number} loss {error:.4f}", flush=True)
        names = ("weights1", "biases1", "weights2", "biases2")
        values = session.run([weights1, biases1, weights2, biases2])
        np.savez(os.path.join(os.environ["IPDC_OUTPUT"], "model.npz"), **dict(zip(names, values, strict=True)))
        print("last loss", round(float(error), 4))
