"""Makes, with TensorFlow, the models of the tests and what TensorFlow itself says of a small data set.

usage: python -m tests.tensorflow.models DIRECTORY       with the Python of installed.venv()

    float32.tflite float16.tflite int8.tflite dynamic.tflite    the same small network of images, by type of weights
    megabyte.tflite                                             a larger one, of 1 MB
    flex.tflite                                                 needs an operator of TensorFlow itself, FlexSinh
    images/*.png, rows.csv                                      the data set; rows are the images' pixels, 0 to 1
    expected.json     {"float": {image: [...]}, MODEL: {image: [...]}}: TensorFlow's own function, and its interpreter
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

SIZE, CLASSES, IMAGES = 16, 5, 24


def main(directory: Path) -> None:
    """Makes all of it."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import numpy
    import tensorflow as tf
    from PIL import Image

    tf.keras.utils.set_random_seed(7)
    random = numpy.random.default_rng(7)
    (directory / "images").mkdir(parents=True, exist_ok=True)
    pictures = {}
    x, y = numpy.meshgrid(numpy.arange(SIZE), numpy.arange(SIZE))
    for number in range(IMAGES):
        a, b, c = random.uniform(0.1, 1.2, 3)
        waves = [128 + 110 * numpy.sin(a * x + b * y * channel + c * number) for channel in range(3)]
        pictures[f"images/{number:02}.png"] = picture = numpy.stack(waves, 2).astype("uint8")
        Image.fromarray(picture).save(directory / f"images/{number:02}.png")
    values = {name: picture.astype("float32") / numpy.float32(255) for name, picture in pictures.items()}
    (directory / "rows.csv").write_text("".join(",".join(map(repr, value.ravel().tolist())) + "\n"
                                                for value in values.values()))

    layers = tf.keras.layers
    network = tf.keras.Sequential([
        layers.Input((SIZE, SIZE, 3)), layers.Conv2D(8, 3, activation="relu"), layers.MaxPooling2D(),
        layers.Conv2D(12, 3, activation="relu"), layers.Flatten(), layers.Dense(CLASSES, activation="softmax")])

    def sample() -> object:
        for value in values.values():
            yield [value[None]]

    expected = {"float": {name: network(value[None]).numpy()[0].tolist() for name, value in values.items()}}
    for kind in ("float32", "float16", "dynamic", "int8"):
        converter = tf.lite.TFLiteConverter.from_keras_model(network)
        if kind != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if kind == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if kind == "int8":
            converter.representative_dataset = sample
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        model = converter.convert()
        (directory / f"{kind}.tflite").write_bytes(model)
        expected[kind] = {name: _run(tf, model, value) for name, value in values.items()}
    (directory / "expected.json").write_text(json.dumps(expected))

    larger = tf.keras.Sequential([
        layers.Input((32, 32, 3)), layers.Conv2D(32, 3, strides=2, activation="relu"),
        layers.Conv2D(64, 3, strides=2, activation="relu"), layers.Flatten(), layers.Dense(96, activation="relu"),
        layers.Dense(10, activation="softmax")])
    (directory / "megabyte.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(larger).convert())

    @tf.function(input_signature=[tf.TensorSpec([4], tf.float32)])
    def flexible(numbers: object) -> object:
        return tf.math.sinh(numbers)

    converter = tf.lite.TFLiteConverter.from_concrete_functions([flexible.get_concrete_function()])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    (directory / "flex.tflite").write_bytes(converter.convert())


def _run(tf: object, model: bytes, value: object) -> list[float]:
    """What TensorFlow's own interpreter says, as real values."""
    import numpy

    interpreter = tf.lite.Interpreter(model_content=model, num_threads=1)  # type: ignore[attr-defined]
    interpreter.allocate_tensors()
    given, got = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scale, zero = given["quantization"]
    if scale:
        value = numpy.clip(numpy.round(value / scale) + zero, -128, 127).astype("int8")
    interpreter.set_tensor(given["index"], value[None])
    interpreter.invoke()
    scale, zero = got["quantization"]
    found = interpreter.get_tensor(got["index"])[0].astype("float32")
    return ((found - zero) * scale if scale else found).tolist()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
