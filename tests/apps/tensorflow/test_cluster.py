"""Both files of a cluster: what is read, what is refused and in which words, and that a plan is read as it was
written."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipdc_edge.apps.tensorflow import cluster as clusters
from ipdc_edge.apps.tensorflow.cluster import BadCluster, BadPlan, Cluster, Place, Role, config, planned, read, roles

NODE = "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG"
PLAN = Cluster((Place(Role("local", 0), NODE, "attic", 2222), Place(Role("local", 1), NODE[::-1], "cellar", 2223)),
               "2.21.0", 768 << 20)


def test_ipdc_s_own_form() -> None:
    assert roles('{"local": [0, 1]}') == (Role("local", 0), Role("local", 1))
    assert [str(role) for role in roles(b'{"worker": [1, 0], "chief": [0], "ps": [0]}')] == [
        "worker:0", "worker:1", "chief:0", "ps:0"]


@pytest.mark.parametrize("text, words", [
    ("", "Expecting value"), ("[]", "not a JSON object"), ("{}", "names no job"),
    ('{"local": []}', "not a list of numbers"),
    ('{"local": 2}', "not a list of numbers"), ('{"local": [true]}', "not a list of numbers"),
    ('{"local": [0, 2]}', "numbers from 0 on"), ('{"local": [0, 0]}', "numbers from 0 on"),
    ('{"Local!": [0]}', "no name of a job"), ('{"chief": [0, 1]}', "one chief"), ('{"a": [0], "a": [0]}', "'a'.*twice"),
    (json.dumps({"local": list(range(21))}), "21 roles, at most 20"), ("[" * 100_000, "more than 65536 bytes"),
    ("[" * 60_000, "recursion"),
])
def test_what_is_no_cluster_is_refused_by_name(text: str, words: str) -> None:
    with pytest.raises(BadCluster, match=f"(?s)^my.conf: .*{words}") as caught:
        roles(text, "my.conf")
    assert caught.value.exit_code == 2 and '{"local": [0, 1]}' in str(caught.value)


def test_a_plan_is_as_ipdc_defines_it_and_is_read_as_it_was_written() -> None:
    written = json.loads(planned(PLAN))
    assert written["ClusterSpec"] == {"local": ["127.0.0.1:2222", "127.0.0.1:2223"]}
    assert written["TaskIndex"] == {"127.0.0.1:2222": 0, "127.0.0.1:2223": 1}
    assert read(planned(PLAN)) == PLAN


@pytest.mark.parametrize("change, words", [
    ({"ClusterSpec": {}}, "no ClusterSpec"), ({"TaskIndex": None}, "no TaskIndex"), ({"Nodes": []}, "no Nodes"),
    ({"TensorFlow": "new"}, "no version"), ({"Memory": 5}, "number of bytes"), ({"Memory": True}, "number of bytes"),
    ({"ClusterSpec": {"local": ["10.0.0.1:2222", "127.0.0.1:2223"]}}, "not 127.0.0.1"),
    ({"ClusterSpec": {"local": ["127.0.0.1:22", "127.0.0.1:2223"]}}, "not 127.0.0.1"),
    ({"ClusterSpec": {"local": ["127.0.0.1:99999", "127.0.0.1:2223"]}}, "not 127.0.0.1"),
    ({"ClusterSpec": {"local": ["127.0.0.1:2223", "127.0.0.1:2222"]}}, "do not say so"),
    ({"ClusterSpec": {"local": ["127.0.0.1:2222"]}}, "names more"), ({"ClusterSpec": {"local": [5]}}, "not 127.0.0.1"),
    ({"ClusterSpec": {"../x": ["127.0.0.1:2222"]}}, "not a list of addresses"),
    ({"Nodes": {"127.0.0.1:2222": {"id": "../x", "name": "a"}, "127.0.0.1:2223": {}}}, "on no node"),
])
def test_an_edited_plan_that_says_nonsense_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(BadPlan, match=words):
        read(json.dumps({**json.loads(planned(PLAN)), **change}))


NAMES = st.sampled_from(["ClusterSpec", "TaskIndex", "Nodes", "TensorFlow", "Memory", "local", "127.0.0.1:2222"])


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner)))
def test_whatever_else_stands_there_is_refused(value: object) -> None:
    with pytest.raises(BadPlan):
        read(json.dumps(value))


def test_tf_config_of_a_role_and_of_a_program_that_is_none() -> None:
    assert json.loads(config(PLAN, Role("local", 1))) == {
        "cluster": {"local": ["127.0.0.1:2222", "127.0.0.1:2223"]}, "task": {"type": "local", "index": 1}}
    assert json.loads(config(PLAN, None))["task"] == {"type": clusters.CHIEF, "index": 0}
