"""The programs in examples/streaming: what they give through the pieces, as a shell pipe, and by a plain program."""

from __future__ import annotations

import os
import random
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from helpers_command import Programs

from ipdc_edge.apps.mapreduce.command import Command, input_environment, pairs, prepare, text

pytestmark = pytest.mark.outside("runs real programs")

EXAMPLES = Path(__file__).parents[3] / "examples" / "streaming"


class Example(Programs):
    """The example programs over one input."""

    code = {path.name: path.read_bytes() for path in EXAMPLES.iterdir() if path.suffix != ".md"}

    def ran(self, name: str, data: bytes, environment: dict[str, str] | None = None) -> bytes:
        """A program's output; the input comes in chunks of whole lines."""
        lines = data.splitlines(keepends=True)
        chunks = (b"".join(lines[start : start + 100]) for start in range(0, len(lines), 100))
        prepare(self.code, str(self.directory))
        return b"".join(Command([name], self.code, environment or {}, self.io, self._count).run(chunks))

    def job(self, mapper: str, reducer: str, data: bytes) -> bytes:
        """Map, the sort between (by its pairs), reduce."""
        found = sorted(pairs([self.ran(mapper, data)]), key=lambda pair: os.fsencode(pair[0]))
        return self.ran(reducer, b"".join(text(found)))


def shell(mapper: str, reducer: str, data: bytes) -> bytes:
    """As it runs on one machine without IPDC."""
    script = f"./{mapper} | LC_ALL=C sort -s -t '\t' -k1,1 | ./{reducer}"
    return subprocess.run(["sh", "-c", script], cwd=EXAMPLES, input=data, stdout=subprocess.PIPE).stdout


@pytest.fixture
def example(tmp_path: Path) -> Example:
    return Example(tmp_path)


def test_word_count(example: Example) -> None:
    generator = random.Random(4)
    words = ["a", "the", "naïve", "日本", "end.", "'tis", "x" * 100]
    data = "\n".join(" ".join(generator.choices(words, k=generator.randrange(9))) for _ in range(3000)).encode()
    data += b"\n\xff\xfe not UTF-8\r\n\nlast word"
    expected = Counter(os.fsdecode(data).split())
    plain = b"".join(os.fsencode(f"{word}\t{count}\n") for word, count in expected.items())
    found = example.job("mapper.py", "reducer.py", data)
    assert sorted(found.splitlines()) == sorted(plain.splitlines())
    assert found == shell("mapper.py", "reducer.py", data)
    assert example.ran("reducer.py", found) == found  # a combiner's pairs are a reducer's


def test_max_temperature(example: Example) -> None:
    generator = random.Random(4)
    readings = [(generator.randrange(1990, 2020), round(generator.uniform(-30, 40), 1)) for _ in range(3000)]
    lines = [f"{year}-07-01T12:00,roof,{celsius}{generator.choice(['', chr(13)])}" for year, celsius in readings]
    lines += ["1990-01-01,roof,-", "", "date,place,celsius", "1990-01-01T00:00,cellar,+9.5"]
    data = "\n".join(lines).encode()
    highest: dict[int, float] = {}
    for year, celsius in readings:
        highest[year] = max(celsius, highest.get(year, -100))
    found = example.job("max_temperature_map.awk", "max_temperature_reduce.awk", data)
    assert {int(key): float(value) for key, value in pairs([found])} == highest
    assert found == shell("max_temperature_map.awk", "max_temperature_reduce.awk", data)
    assert example.counters == {"Temperatures: malformed": 3}


@pytest.mark.parametrize("data", [b"", b"\n", b"no reading\n"])
def test_a_split_without_anything_is_no_failure(example: Example, data: bytes) -> None:
    assert example.job("max_temperature_map.awk", "max_temperature_reduce.awk", data) == b""
    assert example.job("statuses.sh", "reducer.py", data) == b""


def test_statuses_by_file(example: Example) -> None:
    line = b'10.0.0.%d - - [01/Jan/2024:00:00:00 +0000] "GET /a" %d 512 "-" "an agent, 404 "\n'
    data = b"".join(line % (number, 200 if number % 3 else 404) for number in range(90)) + b"broken\n"
    told = input_environment({"name": "/var/log/a & b/access.log", "start": 0, "end": len(data)})
    found = example.ran("statuses.sh", data, told)
    assert Counter(pairs([found])) == {("access.log 200", "1"): 60, ("access.log 404", "1"): 30}
    assert example.statuses == ["reading access.log"]
    assert b"standard input 404\t30\n" in shell("statuses.sh", "reducer.py", data)


def test_the_readme_names_files_that_are_there() -> None:
    named = {word for word in (EXAMPLES / "README.md").read_text().split() if word in Example.code}
    assert named == set(Example.code)
