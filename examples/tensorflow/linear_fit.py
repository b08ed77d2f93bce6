"""IPDC's second example: a line is fitted by gradient descent, its variables on one task, the gradients on the other.

    echo '{"local": [0, 1]}' >ClusterSpec.conf
    ipdc-edge tf plan && ipdc-edge tf up && ipdc-edge tf run linear_fit.py; ipdc-edge tf down
"""

import json
import os

import numpy as np
import tensorflow as tf

tf1 = tf.compat.v1
cluster = json.loads(os.environ["ipdc_cluster"])
random = np.random.default_rng(1)
x_data = random.random(100, dtype=np.float32)
y_data = 0.1 * x_data + 0.3

with tf.Graph().as_default():
    x, y = tf1.placeholder(tf.float32, [None]), tf1.placeholder(tf.float32, [None])
    with tf.device("/job:local/task:0"):
        weight, bias = tf1.Variable(tf1.random_uniform([1], -1.0, 1.0, seed=1)), tf1.Variable(tf1.zeros([1]))
    with tf.device("/job:local/task:1"):
        loss = tf.reduce_mean(tf.square(weight * x + bias - y))
        step = tf1.train.GradientDescentOptimizer(0.5).minimize(loss)
    bounded = tf1.ConfigProto(operation_timeout_in_ms=20_000)
    with tf1.Session(f"grpc://{cluster['local'][0]}", config=bounded) as session:
        session.run(tf1.global_variables_initializer())
        for number in range(201):
            session.run(step, {x: x_data, y: y_data})
            if number % 50 == 0:
                print(number, *session.run([weight, bias]), flush=True)
        found = [float(value[0]) for value in session.run([weight, bias])]
        print(f"y = {found[0]:.2f} x + {found[1]:.2f}")
