"""IPDC's first example on two tasks: y1 = x + 300 on one, y2 = x - 66 on the other, y = y1 + y2; 238 for x = 2.

    echo '{"local": [0, 1]}' >ClusterSpec.conf
    ipdc-edge tf plan && ipdc-edge tf up && ipdc-edge tf run addition.py; ipdc-edge tf down

`x` is a placeholder: of a constant TensorFlow would compute everything in one place, beforehand.
"""

import json
import os

import tensorflow as tf

tf1 = tf.compat.v1
cluster = json.loads(os.environ["ipdc_cluster"])

with tf.Graph().as_default():
    x = tf1.placeholder(tf.int32, [])
    with tf.device("/job:local/task:0"):
        y1 = x + 300
    with tf.device("/job:local/task:1"):
        y2 = x - 66
    y = y1 + y2
    bounded = tf1.ConfigProto(operation_timeout_in_ms=20_000)  # or a task that is gone would be waited for for ever
    with tf1.Session(f"grpc://{cluster['local'][0]}", config=bounded) as session:
        metadata = tf1.RunMetadata()
        trace = tf1.RunOptions(trace_level=tf1.RunOptions.FULL_TRACE)
        print("y =", session.run(y, {x: 2}, options=trace, run_metadata=metadata))
        used = {stats.device for stats in metadata.step_stats.dev_stats if stats.node_stats}
        print("tasks:", sorted({name.split("/")[3] for name in used if name.startswith("/job:local")}))
