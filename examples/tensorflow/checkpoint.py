"""Training that goes on where it was: a worker that is lost is started again, and all begin at the newest checkpoint.

    echo '{"worker": [0, 1]}' >ClusterSpec.conf
    ipdc-edge tf plan && ipdc-edge tf up --restart --program checkpoint.py --timeout 60 [--args STEPS]

Every worker writes a checkpoint to IPDC_OUTPUT every 20 steps. When one is lost, the others cannot go on: they end with
an error, and all are started again. With --restart a worker finds in IPDC_OUTPUT what it had written on that node. One
that is on a node which lost everything finds nothing; so all ask each other first who has the newest checkpoint, and
take that one's values. A step's batch depends on the step's number alone, so the end is what it would have been.
"""

import json
import os
import sys
from contextlib import suppress

import numpy as np
import tensorflow as tf

STEPS, EVERY, BATCH = int((sys.argv[1:] or ["400"])[0]), 20, 64  # BATCH: of each worker
# A worker that is gone would be waited for for ever.
bounded = tf.distribute.experimental.CommunicationOptions(timeout_seconds=20.0)
strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=bounded)
me = json.loads(os.environ["TF_CONFIG"])["task"]
random = np.random.default_rng(0)
truth = random.normal(size=(20, 3))
features = random.normal(size=(4096, 20)).astype("float32")
labels = (features @ truth).argmax(1).astype("int32")
everything = tf.constant(features), tf.constant(labels)

with strategy.scope():
    tf.random.set_seed(3)
    done = tf.Variable(0.0, name="done")  # steps
    weights = [tf.Variable(tf.random.normal((20, 32), seed=1) * 0.2), tf.Variable(tf.zeros(32)),
               tf.Variable(tf.random.normal((32, 3), seed=2) * 0.2), tf.Variable(tf.zeros(3))]
checkpoint = tf.train.Checkpoint(done=done, **{f"weight{number}": value for number, value in enumerate(weights)})
manager = tf.train.CheckpointManager(checkpoint, os.path.join(os.environ["IPDC_OUTPUT"], "checkpoint"), max_to_keep=2)


def as_the_newest():
    """One worker's part: it takes the values of the worker with the most steps."""
    context = tf.distribute.get_replica_context()
    steps = context.all_gather(tf.reshape(done, [1]), axis=0)
    mine = tf.cast(tf.equal(tf.argmax(steps, output_type=tf.int32), context.replica_id_in_sync_group), tf.float32)
    for value in (done, *weights):
        value.assign(context.all_reduce("sum", value * mine))


def one_step(number):
    """One worker's part of a step; how many of the batch it had right before."""
    context = tf.distribute.get_replica_context()
    first = (number * context.num_replicas_in_sync + context.replica_id_in_sync_group) * BATCH
    places = tf.range(first, first + BATCH) % len(features)
    given, wanted = (tf.gather(values, places) for values in everything)
    with tf.GradientTape() as tape:
        guessed = tf.nn.relu(given @ weights[0] + weights[1]) @ weights[2] + weights[3]
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(wanted, guessed))
    for weight, gradient in zip(weights, context.all_reduce("mean", tape.gradient(loss, weights)), strict=True):
        weight.assign_sub(0.3 * gradient)
    done.assign_add(1.0)
    return tf.reduce_mean(tf.cast(tf.equal(tf.argmax(guessed, 1, output_type=tf.int32), wanted), tf.float32))


@tf.function
def step(number):
    """All workers'; their accuracy."""
    return strategy.reduce("MEAN", strategy.run(one_step, args=(number,)), axis=None)


def leave():
    """Nobody goes while another still waits for the last of what it sent: who comes to this sum has all it wants."""
    everybody = tf.function(lambda: strategy.reduce("SUM", strategy.run(lambda: tf.constant(1.0)), axis=None),
                            autograph=False)
    with suppress(tf.errors.OpError):  # somebody has the sum already, and has gone
        everybody()
    os._exit(0)  # TensorFlow's own end may wait for the others


def value_of(variable):
    """A variable's value, which is the same on all workers."""
    return strategy.experimental_local_results(variable)[0].numpy()


manager.restore_or_initialize()
print(f"{me['type']}:{me['index']} has a checkpoint of step {int(value_of(done))}", flush=True)
tf.function(lambda: strategy.run(as_the_newest))()
began = int(value_of(done))
print(f"{me['type']}:{me['index']} begins at step {began}", flush=True)
accuracy = 1.0
for number in range(began, STEPS):
    accuracy = float(step(tf.constant(number)))
    if (number + 1) % EVERY == 0:
        manager.save(checkpoint_number=number + 1)
np.savez(os.path.join(os.environ["IPDC_OUTPUT"], "weights.npz"), *map(value_of, weights))
total = sum(float(np.abs(value_of(weight)).sum()) for weight in weights)
print(f"{me['type']}:{me['index']} of {strategy.num_replicas_in_sync}: steps {began} to {STEPS}, "
      f"accuracy {accuracy:.3f}, weights {total:.4f}", flush=True)
leave()
