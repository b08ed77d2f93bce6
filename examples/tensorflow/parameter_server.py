"""Training under ParameterServerStrategy: this program is the chief, and a ClusterCoordinator gives the workers their
steps; the variables are on the parameter server.

    echo '{"chief": [0], "worker": [0, 1], "ps": [0]}' >ClusterSpec.conf
    ipdc-edge tf plan --share && ipdc-edge tf up && ipdc-edge tf run parameter_server.py; ipdc-edge tf down
"""

import os

import numpy as np
import tensorflow as tf

EPOCHS, STEPS, BATCH = 4, 64, 64
strategy = tf.distribute.ParameterServerStrategy(tf.distribute.cluster_resolver.TFConfigClusterResolver())
coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
random = np.random.default_rng(0)
truth = random.normal(size=(20, 3))
features = random.normal(size=(4096, 20)).astype("float32")
labels = (features @ truth).argmax(1).astype("int32")

with strategy.scope():
    tf.random.set_seed(3)
    weights = [tf.Variable(tf.random.normal((20, 32)) * 0.2), tf.Variable(tf.zeros(32)),
               tf.Variable(tf.random.normal((32, 3)) * 0.2), tf.Variable(tf.zeros(3))]


def batches(context=None):
    """What each worker learns from."""
    return tf.data.Dataset.from_tensor_slices((features, labels)).shuffle(4096).repeat().batch(BATCH)


@tf.function
def of_a_worker():
    """The same, on the worker."""
    return strategy.distribute_datasets_from_function(batches)


@tf.function
def step(own):
    """One of a worker's; its accuracy."""
    def one(given, wanted):
        with tf.GradientTape() as tape:
            guessed = tf.nn.relu(given @ weights[0] + weights[1]) @ weights[2] + weights[3]
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(wanted, guessed))
        for weight, gradient in zip(weights, tape.gradient(loss, weights), strict=True):
            weight.assign_sub(0.3 * gradient)
        return tf.reduce_mean(tf.cast(tf.equal(tf.argmax(guessed, 1, output_type=tf.int32), wanted), tf.float32))

    return strategy.run(one, args=next(own))


own = iter(coordinator.create_per_worker_dataset(of_a_worker))
for epoch in range(EPOCHS):
    results = [coordinator.schedule(step, args=(own,)) for _ in range(STEPS)]
    coordinator.join()
    accuracy = float(np.mean([coordinator.fetch(result) for result in results]))
    print("epoch", epoch, "accuracy", round(accuracy, 3), flush=True)
print("variables on", sorted({variable.device.split("/replica")[0] for variable in weights}), flush=True)
np.savez(os.path.join(os.environ["IPDC_OUTPUT"], "weights.npz"), *[weight.numpy() for weight in weights])
os._exit(0)  # TensorFlow's own end waits for the others
