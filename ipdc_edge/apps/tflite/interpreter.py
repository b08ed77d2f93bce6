"""Which TFLite interpreter there is, and a model in it.

Owns the order of choice (LiteRT, else tflite-runtime, else TensorFlow's own), the proof that one works, and how values
get into a model's tensors and out of them. Lives in runners only: these libraries take tens of megabytes. One thread,
no delegate but the one for the processor that comes with the library. """

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from importlib import import_module

from ipdc_edge.apps.tflite import tiny
from ipdc_edge.errors import IpdcError

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

# (package, the module that has `Interpreter`, the module that has `__version__`)
CANDIDATES = (
    ("ai_edge_litert", "ai_edge_litert.interpreter", "ai_edge_litert"),
    ("tflite_runtime", "tflite_runtime.interpreter", "tflite_runtime"),
    ("tensorflow", "tensorflow.lite.python.interpreter", "tensorflow"),
)
MOST_REASON = 160  # characters
QUIET = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}


class NoInterpreter(IpdcError):
    """no TFLite interpreter works here: {reason}"""


class ModelRefused(IpdcError):
    """{interpreter} {version} cannot run the model {file}: {reason}"""


class WrongTensor(IpdcError):
    """the model's input {tensor} takes {wanted}, and was given {given}. {hint}"""


class Found:
    """An interpreter that works."""

    def __init__(self, name: str, version: str, make: Any) -> None:
        self.name, self.version, self.make = name, version, make


def find() -> Found:
    """The first that works: it has built a small model and run it. NoInterpreter with what is wrong with each."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import numpy  # noqa: F401  (not in silence: its linear algebra ends the process where memory is too small)
    except ModuleNotFoundError:
        reason = "numpy is missing, which all of them need: `sudo apt install python3-numpy`"
        raise NoInterpreter(reason=reason) from None
    except Exception as error:
        raise NoInterpreter(reason=f"numpy, which all of them need, cannot be imported: {_words(error)}") from None
    reasons = []
    for package, module, versioned in CANDIDATES:
        try:
            with quiet():
                make = import_module(module).Interpreter
                version = str(getattr(import_module(versioned), "__version__", "?"))
                _prove(make)
        except ModuleNotFoundError as error:
            if str(error.name).partition(".")[0] != package:
                reasons.append(f"{package}: {_words(error)}")
        except Exception as error:  # whatever a library that does not fit this machine raises
            reasons.append(f"{package}: {_words(error)}{_numpy_hint(package)}")
        else:
            return Found(package, version, make)
    raise NoInterpreter(reason="; ".join(reasons) or "none is installed")


def _prove(make: Any) -> None:
    """Builds a model of one operator and runs it."""
    import numpy

    interpreter = make(model_content=tiny.model(tiny.RELU), num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], numpy.array([[-1, 2, -3, 4]], "float32"))
    interpreter.invoke()
    got = interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).tolist()
    if got != [[0.0, 2.0, 0.0, 4.0]]:
        raise ArithmeticError(f"RELU of -1 2 -3 4 gave {got}")


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:MOST_REASON].rstrip(": ")


def _numpy_hint(package: str) -> str:
    """tflite-runtime was built for numpy 1, imports with numpy 2, and makes no interpreter with it."""
    numpy = sys.modules.get("numpy")
    version = str(getattr(numpy, "__version__", ""))
    if package == "tflite_runtime" and version and not version.startswith("1."):
        return f" (it needs a numpy before 2, and {version} is here)"
    return ""


@contextmanager
def quiet() -> Iterator[None]:
    """What a library prints about itself does not go into the job's log."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class Outputs(dict):  # type: ignore[type-arg]
    """{name of an output: numpy array}, in the model's order; a number is its place in that order: outputs[0]."""

    def __missing__(self, key: object) -> Any:
        if type(key) is int:
            return list(self.values())[key]
        raise KeyError(f"{key!r}; the model's outputs are {', '.join(map(repr, self))}")


class Tensor:
    """An input or output: its name, numpy type, shape, and how real values are quantized (scale 0: they are not)."""

    def __init__(self, name: str, details: dict[str, Any]) -> None:
        self.name, self.index, self.type = name, int(details["index"]), details["dtype"]
        self.shape = [int(size) for size in details["shape"]]
        signature = details.get("shape_signature", ())
        self.free = [int(size) for size in signature] if len(signature) else self.shape  # -1: any size
        self.scale, self.zero = float(details["quantization"][0]), int(details["quantization"][1])

    def __str__(self) -> str:
        sizes = ", ".join("any" if size < 0 else str(size) for size in self.free)
        return f"{self.type.__name__} [{sizes}]"


class Model:
    """A model in an interpreter, loaded once and run often."""

    def __init__(self, found: Found, file: str, content: bytes | None, path: str) -> None:
        """The model is `content`, or lies at `path`, which is mapped and not read. ModelRefused."""
        try:
            with quiet():
                source = {"model_path": path} if content is None else {"model_content": content}
                self._interpreter = interpreter = found.make(num_threads=1, **source)
                interpreter.allocate_tensors()
                self._named()
        except MemoryError:
            raise
        except Exception as error:  # ValueError and RuntimeError, with the library's own words
            words = " ".join(str(error).split())[:1000]
            raise ModelRefused(interpreter=found.name, version=found.version, file=file, reason=words) from None

    def _named(self) -> None:
        """Inputs and outputs by the names of the model's one signature; by those of its tensors where it has none."""
        interpreter = self._interpreter
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        signatures = interpreter.get_signature_list()
        names: dict[int, str] = {}
        if len(signatures) == 1:
            runner = interpreter.get_signature_runner(next(iter(signatures)))
            for details in (runner.get_input_details(), runner.get_output_details()):
                names.update({int(tensor["index"]): name for name, tensor in details.items()})
        self.inputs = [Tensor(names.get(int(t["index"]), t["name"]), t) for t in inputs]
        self.outputs = [Tensor(names.get(int(t["index"]), t["name"]), t) for t in outputs]

    def run(self, given: object) -> Outputs:
        """One inference. given: an array for the only input, or as many as there are inputs, in a list or by name.
        WrongTensor."""
        for tensor, value in zip(self.inputs, self._values(given)):
            self._set(tensor, value)
        self._interpreter.invoke()
        found = Outputs()
        for tensor in self.outputs:
            found[tensor.name] = self._real(tensor, self._interpreter.get_tensor(tensor.index))
        return found

    def _values(self, given: object) -> list[object]:
        names = [tensor.name for tensor in self.inputs]
        if isinstance(given, dict):
            if set(given) != set(names):
                self._wrong(str(list(map(str, given)))[:200], "Name each input once.")
            return [given[name] for name in names]
        listed = isinstance(given, (list, tuple)) and len(given) == 1 and hasattr(given[0], "shape")
        if len(names) == 1 and not listed:
            return [given]
        if not isinstance(given, (list, tuple)) or len(given) != len(names):
            self._wrong(f"{type(given).__name__} of {len(given) if hasattr(given, '__len__') else 1}",
                        f"Yield {len(names)} tensors, in this order or by name.")
        return list(given)  # type: ignore[call-overload, no-any-return]

    def _wrong(self, given: str, hint: str) -> None:
        names = " and ".join(tensor.name for tensor in self.inputs)
        wanted = " and ".join(map(str, self.inputs))
        raise WrongTensor(tensor=names, wanted=wanted, given=given, hint=hint)

    def _set(self, tensor: Tensor, value: object) -> None:
        import numpy

        array = numpy.asarray(value)
        given = f"{array.dtype} {list(array.shape)}"
        if array.dtype.kind not in "biuf":
            raise WrongTensor(tensor=tensor.name, wanted=tensor, given=given, hint="Give numbers.")
        if list(array.shape) != tensor.shape:
            array = self._shaped(tensor, array, given)
        if array.dtype != tensor.type:
            array = self._typed(tensor, array, given)
        self._interpreter.set_tensor(tensor.index, array)

    def _shaped(self, tensor: Tensor, array: Any, given: str) -> Any:
        """With the dimension of the batch, where it lacks; an input of any size takes the size that it is given."""
        free = tensor.free
        if array.ndim == len(free) - 1 and free[0] in (1, -1):
            array = array[None]
        if list(array.shape) == tensor.shape:
            return array
        if array.ndim != len(free) or any(a != b for a, b in zip(array.shape, free) if b >= 0):
            hint = "Pre.py's pre(name, data) yields what fits."
            raise WrongTensor(tensor=tensor.name, wanted=tensor, given=given, hint=hint)
        self._interpreter.resize_tensor_input(tensor.index, list(array.shape))
        self._interpreter.allocate_tensors()
        tensor.shape = list(array.shape)
        return array

    def _typed(self, tensor: Tensor, array: Any, given: str) -> Any:
        import numpy

        kind = numpy.dtype(tensor.type)
        if kind.kind in "iu" and array.dtype.kind == "f":
            if not tensor.scale:
                hint = "Give whole numbers."
                raise WrongTensor(tensor=tensor.name, wanted=tensor, given=given, hint=hint)
            bounds = numpy.iinfo(kind)
            # as TensorFlow quantizes: half away from zero
            scaled = array.astype("float64") / tensor.scale
            whole = numpy.trunc(scaled + numpy.copysign(0.5, scaled)) + tensor.zero
            return numpy.clip(whole, bounds.min, bounds.max).astype(kind)
        if kind.kind in "iu" and array.size:
            bounds = numpy.iinfo(kind)
            if array.min() < bounds.min or array.max() > bounds.max:
                hint = f"Whole numbers are taken as they are, from {bounds.min} to {bounds.max}."
                raise WrongTensor(tensor=tensor.name, wanted=tensor, given=given, hint=hint)
        return array.astype(kind)

    @staticmethod
    def _real(tensor: Tensor, array: Any) -> Any:
        """Real values of a quantized output."""
        return (array.astype("float32") - tensor.zero) * tensor.scale if tensor.scale else array
