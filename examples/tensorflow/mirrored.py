"""Training under MultiWorkerMirroredStrategy: every worker runs this program, and all have the same weights in the end.

    echo '{"worker": [0, 1]}' >ClusterSpec.conf
    ipdc-edge tf plan && ipdc-edge tf up --program mirrored.py [--args fit] --timeout 60

Without a word it is a custom loop; with `fit` it is tf_keras' fit (that of Keras 3 does not work under this strategy).
The job ends by itself when all workers have, with a part of each: `ipdc-edge logs ID` shows what they printed.
"""

import json
import os
import sys
from contextlib import suppress

FIT = "fit" in sys.argv[1:]
if FIT:
    os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

EPOCHS, STEPS, BATCH = 4, 32, 128
# A worker that is gone would be waited for for ever.
bounded = tf.distribute.experimental.CommunicationOptions(timeout_seconds=20.0)
strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=bounded)
random = np.random.default_rng(0)
truth = random.normal(size=(20, 3))
features = random.normal(size=(4096, 20)).astype("float32")
labels = (features @ truth).argmax(1).astype("int32")
options = tf.data.Options()
options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
data = tf.data.Dataset.from_tensor_slices((features, labels)).shuffle(4096, seed=1).repeat().batch(BATCH)
data = data.with_options(options)


def custom_loop():
    """Weights, accuracy."""
    with strategy.scope():
        tf.random.set_seed(3)
        weights = [tf.Variable(tf.random.normal((20, 32)) * 0.2), tf.Variable(tf.zeros(32)),
                   tf.Variable(tf.random.normal((32, 3)) * 0.2), tf.Variable(tf.zeros(3))]

    def one_step(batch):
        given, wanted = batch
        with tf.GradientTape() as tape:
            guessed = tf.nn.relu(given @ weights[0] + weights[1]) @ weights[2] + weights[3]
            loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(wanted, guessed)) / BATCH
        gradients = tf.distribute.get_replica_context().all_reduce("sum", tape.gradient(loss, weights))
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.assign_sub(0.5 * gradient)
        right = tf.equal(tf.argmax(guessed, 1, output_type=tf.int32), wanted)
        return tf.reduce_sum(tf.cast(right, tf.float32))

    @tf.function
    def step(batches):
        return strategy.reduce("SUM", strategy.run(one_step, args=(next(batches),)), axis=None)

    batches = iter(strategy.experimental_distribute_dataset(data))
    for epoch in range(EPOCHS):
        accuracy = sum(float(step(batches)) for _ in range(STEPS)) / STEPS / BATCH
        print("epoch", epoch, "accuracy", round(accuracy, 3), flush=True)
    return [strategy.experimental_local_results(weight)[0].numpy() for weight in weights], accuracy


def fit():
    """Weights, accuracy."""
    import tf_keras

    with strategy.scope():
        tf.random.set_seed(3)
        model = tf_keras.Sequential([tf_keras.layers.Input((20,)), tf_keras.layers.Dense(32, activation="relu"),
                                     tf_keras.layers.Dense(3)])
        model.compile(tf_keras.optimizers.SGD(0.5), tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                      metrics=["accuracy"])
    history = model.fit(data, epochs=EPOCHS, steps_per_epoch=STEPS, verbose=0)
    return model.get_weights(), history.history["accuracy"][-1]


def leave():
    """Nobody goes while another still waits for the last of what it sent: who comes to this sum has all it wants."""
    everybody = tf.function(lambda: strategy.reduce("SUM", strategy.run(lambda: tf.constant(1.0)), axis=None),
                            autograph=False)
    with suppress(tf.errors.OpError):  # somebody has the sum already, and has gone
        everybody()
    os._exit(0)  # TensorFlow's own end may wait for the others


found, accuracy = fit() if FIT else custom_loop()
np.savez(os.path.join(os.environ["IPDC_OUTPUT"], "weights.npz"), *found)
me = json.loads(os.environ["TF_CONFIG"])["task"]
print(f"{me['type']}:{me['index']} of {strategy.num_replicas_in_sync}: accuracy {accuracy:.3f}, weights "
      f"{sum(float(np.abs(value).sum()) for value in found):.4f}", flush=True)
leave()
