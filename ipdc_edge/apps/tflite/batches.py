"""A model that takes several inputs in one call, where its batch dimension is free.

Owns how inputs of several requests become one call and how its outputs are parted again. A call's size is kept where
filling it up costs less than another size would, which has the interpreter lay its memory out anew. """

from __future__ import annotations

from ipdc_edge.apps.tflite.interpreter import Model, Outputs, WrongTensor

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

MOST = 32  # inputs of one call: beyond that a call costs as much for each (benchmarks/RESULTS.md)


class NoBatch(Exception):
    """The model's outputs have another first dimension than its inputs: whose they are cannot be said. From now on it
    is not `free`, and takes one input at a time."""


class Batched(Model):
    """One model. `free`: whether it takes any number of inputs in one call, as far as it says, and has kept to it."""

    size = 1  # inputs of a call, as the interpreter is laid out now
    most = MOST  # ... and at most: fewer where it has failed with more

    def _named(self) -> None:
        super()._named()
        tensors = (*self.inputs, *self.outputs)
        self.free = all(tensor.free[:1] == [-1] and min(tensor.free[1:], default=1) > 0 for tensor in tensors)

    def fitted(self, given: object) -> list[Any]:
        """For each of the model's inputs an array of its type, all of the same number of inputs. WrongTensor."""
        import numpy

        found = []
        for tensor, value in zip(self.inputs, self._values(given)):
            array = numpy.asarray(value)
            told = f"{array.dtype} {list(array.shape)}"
            if array.dtype.kind not in "biuf":
                raise WrongTensor(tensor=tensor.name, wanted=tensor, given=told, hint="Give numbers.")
            if array.ndim == len(tensor.free) - 1:
                array = array[None]
            if array.ndim != len(tensor.free) or list(array.shape[1:]) != tensor.free[1:] or not len(array):
                hint = "Pre.py's pre(name, data) yields what fits."
                raise WrongTensor(tensor=tensor.name, wanted=tensor, given=told, hint=hint)
            found.append(array if array.dtype == tensor.type else self._typed(tensor, array, told))
        if len({len(array) for array in found}) > 1:
            self._wrong(f"{' and '.join(str(len(array)) for array in found)} of them", "Give as many of each.")
        return found

    def run_all(self, fitted: Sequence[list[Any]]) -> list[Outputs]:
        """The outputs for each of what `fitted` gave, which go into the model together. NoBatch; what the interpreter
        raises where an input alone cannot be computed."""
        import numpy

        if not fitted:
            return []
        columns = [parts[0] if len(parts) == 1 else numpy.concatenate(parts) for parts in map(list, zip(*fitted))]
        count = len(columns[0])
        pieces: list[list[Any]] = []
        while (at := sum(len(piece[0]) for piece in pieces)) < count:
            pieces += self._halved([column[at : at + self.most] for column in columns])
        whole = pieces[0] if len(pieces) == 1 else [numpy.concatenate(parts) for parts in zip(*pieces)]
        found, at = [], 0
        for inputs in fitted:
            outputs = Outputs()
            for tensor, values in zip(self.outputs, whole):
                outputs[tensor.name] = values[at : at + len(inputs[0])]
            at += len(inputs[0])
            found.append(outputs)
        return found

    def _halved(self, columns: list[Any]) -> list[list[Any]]:
        """The outputs of one call; of two where it fails, each with half of the inputs, and so on."""
        count = len(columns[0])
        try:
            return [self._call(columns)]
        except NoBatch:
            raise
        except Exception:  # RuntimeError of an operator, MemoryError
            if count == 1:
                raise
        half = (count + 1) // 2
        pieces = [piece for part in (slice(half), slice(half, None))
                  for piece in self._halved([column[part] for column in columns])]
        self.most = min(self.most, half)  # now it is known that the number was too much, and not what an input holds
        return pieces

    def _call(self, columns: list[Any]) -> list[Any]:
        """One call of the interpreter."""
        import numpy

        count = len(columns[0])
        if not count <= self.size <= count + max(1, count // 4):
            self.size = 0  # what stands between the two is of no size, if it fails
            for tensor in self.inputs:
                self._interpreter.resize_tensor_input(tensor.index, [count, *tensor.free[1:]])
            self._interpreter.allocate_tensors()
            self.size = count
        for tensor, column in zip(self.inputs, columns):
            if count < self.size:
                column = numpy.concatenate([column, numpy.zeros((self.size - count, *tensor.free[1:]), column.dtype)])
            self._interpreter.set_tensor(tensor.index, column)
        self._interpreter.invoke()
        found = [self._interpreter.get_tensor(tensor.index) for tensor in self.outputs]
        if any(output.shape[:1] != (self.size,) for output in found):
            self.free = False
            for tensor in self.inputs:
                self._interpreter.resize_tensor_input(tensor.index, tensor.shape)
            self._interpreter.allocate_tensors()
            raise NoBatch("the model's outputs are not one for each input")
        return [self._real(tensor, output)[:count] for tensor, output in zip(self.outputs, found)]
