"""Trains a small network on two nodes with TensorFlow, and runs it on nodes that have no more than an interpreter.

    python3 train_and_serve.py [--type float32|float16|dynamic|int8] [--memory 1G]

This file is both programs. Started by you it plans a cluster of two workers, trains with `tf up`, takes model.tflite
out of what came back into jobs/<id>/, runs it over rows.csv with `submit --model`, and compares what the nodes say with
what TensorFlow said. As a worker (TF_CONFIG is set) it trains, and the first worker converts the model. Exit code 1
where the answers are further apart than the model's type makes them.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import suppress

STEPS, BATCH, ROWS, COLUMNS, HIDDEN, CLASSES = 150, 128, 300, 20, 64, 3
# Of probabilities: sums in another order; weights of 11 bits, of 8 bits; weights and values of 8 bits.
TOLERANCE = {"float32": 1e-5, "float16": 5e-3, "dynamic": 4e-2, "int8": 8e-2}


def train(kind):
    """A worker's part. What it writes to IPDC_OUTPUT comes back."""
    import numpy as np
    import tensorflow as tf

    output, me = os.environ["IPDC_OUTPUT"], json.loads(os.environ["TF_CONFIG"])["task"]
    bounded = tf.distribute.experimental.CommunicationOptions(timeout_seconds=20.0)
    strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=bounded)
    random = np.random.default_rng(0)
    truth = random.normal(size=(COLUMNS, CLASSES))
    features = random.normal(size=(4096 + ROWS, COLUMNS)).astype("float32")
    labels = (features @ truth).argmax(1).astype("int32")
    learnt, unseen = (tf.constant(features[:4096]), tf.constant(labels[:4096])), features[4096:]
    with strategy.scope():
        tf.random.set_seed(3)
        weights = [tf.Variable(tf.random.normal((COLUMNS, HIDDEN)) * 0.2), tf.Variable(tf.zeros(HIDDEN)),
                   tf.Variable(tf.random.normal((HIDDEN, CLASSES)) * 0.2), tf.Variable(tf.zeros(CLASSES))]

    def network(given, values):
        return tf.nn.relu(given @ values[0] + values[1]) @ values[2] + values[3]

    def one_step(number):
        context = tf.distribute.get_replica_context()
        first = (number * context.num_replicas_in_sync + context.replica_id_in_sync_group) * BATCH
        given, wanted = (tf.gather(values, tf.range(first, first + BATCH) % 4096) for values in learnt)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(wanted, network(given, weights)))
        for weight, gradient in zip(weights, context.all_reduce("mean", tape.gradient(loss, weights)), strict=True):
            weight.assign_sub(0.5 * gradient)
        return loss

    @tf.function
    def step(number):
        return strategy.reduce("MEAN", strategy.run(one_step, args=(number,)), axis=None)

    for number in range(STEPS):
        loss = float(step(tf.constant(number)))
    print(f"{me['type']}:{me['index']} of {strategy.num_replicas_in_sync}: loss {loss:.4f}", flush=True)
    if me["index"] == 0:
        named = {f"weight{number}": weight for number, weight in enumerate(weights)}
        tf.train.Checkpoint(**named).write(os.path.join(output, "checkpoint"))
        values = [strategy.experimental_local_results(weight)[0].numpy() for weight in weights]

        @tf.function(input_signature=[tf.TensorSpec([1, COLUMNS], tf.float32, name="row")])
        def predict(row):
            return tf.nn.softmax(network(row, values))

        with open(os.path.join(output, "model.tflite"), "wb") as file:
            file.write(converted(tf, predict, kind, features))
        with open(os.path.join(output, "rows.csv"), "w", encoding="ascii") as file:
            file.writelines(",".join(map(repr, row.tolist())) + "\n" for row in unseen)
        answers = [predict(row[None]).numpy()[0].tolist() for row in unseen]
        with open(os.path.join(output, "expected.json"), "w", encoding="ascii") as file:
            json.dump({"labels": labels[4096:].tolist(), "tensorflow": answers}, file)
    # Nobody goes while another still waits for the last of what it sent: who comes to this sum has all it wants.
    everybody = tf.function(lambda: strategy.reduce("SUM", strategy.run(lambda: tf.constant(1.0)), axis=None),
                            autograph=False)
    with suppress(tf.errors.OpError):  # somebody has the sum already, and has gone
        everybody()
    os._exit(0)  # TensorFlow's own end may wait for the others


def converted(tf, function, kind, rows):
    """A function as a TensorFlow Lite model of a type; rows: what int8 takes the ranges of values from."""
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
    if kind != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if kind == "int8":
        converter.representative_dataset = lambda: ([row[None]] for row in rows[:500])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return converter.convert()


def ipdc(*words, **options):
    """What a command of ipdc-edge prints; its own words go to standard error, and its failure ends this program."""
    try:
        done = subprocess.run(["ipdc-edge", *words], stdout=subprocess.PIPE, text=True, **options)
    except FileNotFoundError:
        sys.exit("there is no ipdc-edge in PATH: run this on a node")
    if done.returncode:
        sys.exit(f"ipdc-edge {' '.join(words)} ended with exit status {done.returncode}")
    return done.stdout


def trained(kind, memory, place):
    """Trains on a cluster of two nodes; the directory of the job, and where what worker 0 wrote lies now."""
    with open(os.path.join(place, "ClusterSpec.conf"), "w", encoding="ascii") as file:
        file.write('{"worker": [0, 1]}')
    print(ipdc("tf", "plan", "--memory", memory, cwd=place))
    begun = ipdc("tf", "up", "--json", "--timeout", "120", "--program", os.path.abspath(__file__), "--args", kind,
                 cwd=place)
    job = json.loads(begun)["id"]
    while (view := json.loads(ipdc("status", job, "--json")))["state"] in ("queued", "running"):
        time.sleep(1)
    if view["state"] != "succeeded":
        sys.exit(f"the training, job {job}, is {view['state']}: {view['error']}")
    with tarfile.open(os.path.join(view["directory"], "part-00000")) as tar:
        for name in ("model.tflite", "rows.csv", "expected.json"):
            with open(os.path.join(place, name), "wb") as file:
                file.write(tar.extractfile(name).read())
    return view["directory"]


def main():
    """The program that you start."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--type", choices=TOLERANCE, default="float32", help="of the model's weights and values")
    parser.add_argument("--memory", default="1G", help="of each worker (default: %(default)s)")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        directory = trained(words.type, words.memory, place)
        print(f"trained: {directory}/part-00000 has model.tflite and its checkpoint")
        last = ipdc("submit", "--model", "model.tflite", "--input", "rows.csv", "--json", cwd=place).splitlines()[-1]
        job = json.loads(last)
        with open(os.path.join(place, "expected.json"), encoding="ascii") as file:
            expected = json.load(file)
    found = [value[0] for _, value in sorted(map(json.loads, ipdc("result", job["id"]).splitlines()))]
    able = {node["name"]: node["capabilities"] for node in json.loads(ipdc("nodes", "--json"))}
    names = [node["name"] for node in job["nodes"] if node["tasks_done"]]
    served = [f"{name} ({word.removeprefix('tflite=')})" for name in names for word in able.get(name, ())
              if word.startswith("tflite=")]
    right = sum(row.index(max(row)) == label for row, label in zip(found, expected["labels"], strict=True))
    apart = max(abs(a - b) for row, said in zip(found, expected["tensorflow"], strict=True)
                for a, b in zip(row, said, strict=True))
    print(f"served by {', '.join(served)}: {len(found)} rows, accuracy {right / len(found):.3f}, "
          f"at most {apart:.2g} from TensorFlow's answers ({words.type} may be {TOLERANCE[words.type]:g})")
    return int(apart > TOLERANCE[words.type])


if __name__ == "__main__":
    if "TF_CONFIG" in os.environ:
        train(sys.argv[1])
    sys.exit(main())
