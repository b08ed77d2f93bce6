"""Who gets which role, and the words for who gets none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ipdc_edge.apps.tensorflow.cluster import Role, roles
from ipdc_edge.apps.tensorflow.planning import TooFewNodes, plan, version_of
from ipdc_edge.core.placement import MB
from ipdc_edge.core.values import NodeRecord, Vitals

VITALS = Vitals(8 << 30, 4 << 30, 4, 1.0, 0.0, 1.0, 1 << 40)
TWO = roles('{"local": [0, 1]}')


def node(name: str, speed: float = 1.0, available: int = 4 << 30, version: str = "2.21.0", **more: Any) -> NodeRecord:
    found = NodeRecord(
        f"Qm{name}", name, "ready", "a:1", "a:2", "0.1.0", ("tensorflow", f"tensorflow={version}"), 1, "bubblewrap",
        replace(VITALS, speed=speed, memory_available=available), architecture="x86_64")
    return replace(found, **more)


def placed(text: str, *nodes: NodeRecord, **more: Any) -> dict[str, str]:
    made = plan(roles(text), nodes, **{"holder": "", **more})
    return {str(place.role): place.name for place in made.cluster.places}


def test_the_fastest_take_part_each_with_a_port_of_its_own() -> None:
    made = plan(TWO, [node("slow", 0.2), node("fast", 1.5), node("good", 1.0)], "Qmslow")
    assert [(place.name, place.address) for place in made.cluster.places] == [
        ("fast", "127.0.0.1:2222"), ("good", "127.0.0.1:2223")]
    assert made.cluster.spec == {"local": ["127.0.0.1:2222", "127.0.0.1:2223"]}
    assert (made.cluster.tensorflow, made.cluster.memory) == ("2.21.0", 768 * MB)
    assert [verdict.name for verdict in made.verdicts] == ["fast", "good", "slow"]  # all, and why
    assert made.verdicts[0].reasons[0] == "TensorFlow 2.21.0" and made.verdicts[2].suitable


def test_the_chief_is_where_it_was_asked_for_and_what_keeps_is_on_the_slowest() -> None:
    nodes = [node("a", 2.0), node("b", 1.0), node("c", 0.5), node("d", 0.25)]
    text = '{"ps": [0], "worker": [0, 1], "chief": [0]}'
    assert placed(text, *nodes, holder="Qmc") == {"chief:0": "c", "worker:0": "a", "worker:1": "b", "ps:0": "d"}
    assert placed(text, *nodes) == {"chief:0": "a", "worker:0": "b", "worker:1": "c", "ps:0": "d"}


def test_the_same_plan_whatever_the_order_of_the_nodes() -> None:
    nodes = [node("a"), node("b"), node("c"), node("d")]
    assert plan(TWO, nodes, "") == plan(TWO, nodes[::-1], "")


def test_all_roles_of_a_node_have_what_systemd_gives_them_together() -> None:
    """ipdc-role.slice ends them at 75 % of the machine, whatever is available."""
    idle = replace(node("idle"), vitals=replace(VITALS, memory_total=1000 * MB, memory_available=950 * MB))
    assert placed('{"local": [0]}', idle, memory=700 * MB) == {"local:0": "idle"}
    with pytest.raises(TooFewNodes, match="memory: 700 MB available, a role takes 701 MB"):
        plan(roles('{"local": [0]}'), [idle], "", memory=701 * MB)
    with pytest.raises(TooFewNodes, match="has room for 1 roles of 400 MB"):
        plan(TWO, [idle], "", memory=400 * MB, share=True)
    unknown = replace(idle, vitals=replace(idle.vitals, memory_total=0))
    assert placed('{"local": [0]}', unknown, memory=900 * MB) == {"local:0": "idle"}


@pytest.mark.parametrize("lame, reason", [
    (node("lame", capabilities=("mapreduce",), unable=("tensorflow: it is not installed",)),
     "has no TensorFlow: it is not installed"),
    (node("lame", capabilities=("mapreduce",)), "has no TensorFlow"),
    (node("lame", capabilities=("mapreduce",), architecture="armv7l"), "there is none for systems of 32 bits (armv7l)"),
    (node("lame", capabilities=("mapreduce",), architecture="armhf on aarch64"), "32 bits (armhf on aarch64)"),
    (node("lame", available=500 * MB), "memory: 500 MB available, a role takes 768 MB"),
    (node("lame", version="2.19.0"), "has TensorFlow 2.19.0, and the cluster takes 2.21.0"),
    (node("lame", state="draining"), "is draining"), (node("lame", state="lost"), "is lost"),
    (node("lame", capabilities=("tensorflow=2.21.0",)), "it runs no roles"),
    (node("lame", sandbox=""), "its sandbox (unknown)"),
    (node("lame", sandbox="rlimits"), "gives a role no network of its own"),
])
def test_too_few_is_exit_code_4_with_each_node_s_reason(lame: NodeRecord, reason: str) -> None:
    with pytest.raises(TooFewNodes) as caught:
        plan(TWO, [node("well"), lame], "")
    said = str(caught.value)
    assert caught.value.exit_code == 4
    assert "takes 2 nodes, and 1 of 2 can take part with TensorFlow 2.21.0" in said
    assert "well: can take part" in said and "lame: " in said and reason in said
    with_another = plan(TWO, [node("well"), lame, node("other")], "").cluster
    assert {place.name for place in with_another.places} == {"other", "well"}


@pytest.mark.parametrize("sandbox", ["systemd", "systemd without memory cgroup", "bubblewrap"])
def test_sandboxes_with_a_network_of_their_own(sandbox: str) -> None:
    assert plan(TWO, [node("a", sandbox=sandbox), node("b")], "").cluster


def test_no_node_at_all_and_none_with_tensorflow() -> None:
    for nodes in ([], [node("a", capabilities=())]):
        with pytest.raises(TooFewNodes, match="takes 2 nodes, and 0 of"):
            plan(TWO, nodes, "")


def test_one_version_for_all_the_one_with_which_it_can_be_had() -> None:
    old = [node("a", version="2.19.0"), node("b", version="2.19.0"), node("c", version="2.19.0", state="draining")]
    new = [node("d", version="2.21.0"), node("e", version="2.21.0")]
    assert plan(TWO, [*old, *new], "").cluster.tensorflow == "2.19.0"  # most have it
    assert plan(TWO, [*old[1:], *new], "").cluster.tensorflow == "2.21.0"  # of as many the newer
    assert plan(roles('{"local": [0, 1]}'), [old[0], old[2], old[2], *new], "").cluster.tensorflow == "2.21.0"
    assert plan(TWO, [*old, *new], "", version="2.21.0").cluster.tensorflow == "2.21.0"
    with pytest.raises(TooFewNodes, match="with TensorFlow 2.20.0"):
        plan(TWO, [*old, *new], "", version="2.20.0")
    assert version_of(old[0]) == "2.19.0" and version_of(node("x", capabilities=("tensorflow",))) == ""


def test_roles_share_a_node_only_where_that_is_asked_for_and_memory_goes() -> None:
    text = '{"chief": [0], "worker": [0], "ps": [0]}'
    with pytest.raises(TooFewNodes, match="With --share"):
        placed(text, node("a"), node("b"))
    assert placed(text, node("a"), node("b", 0.5), holder="Qmb", share=True) == {
        "chief:0": "b", "worker:0": "a", "ps:0": "a"}
    assert placed(text, node("a", available=800 * MB), node("b", 0.5), holder="Qmb", share=True)["ps:0"] == "b"
    with pytest.raises(TooFewNodes, match="has room for 1 roles of 768 MB"):
        placed(text, node("a", available=800 * MB), node("b", available=800 * MB), share=True)
    spread = placed('{"worker": [0, 1, 2]}', node("a", 9.0), node("b"), node("c"), share=True)
    assert sorted(spread.values()) == ["a", "b", "c"]  # nobody shares who need not


def test_only_the_chosen_ones() -> None:
    nodes = [node("a", 9.0), node("b"), node("c")]
    assert set(placed('{"local": [0, 1]}', *nodes, only=["Qmb", "Qmc"]).values()) == {"b", "c"}
    with pytest.raises(TooFewNodes, match="a: is not among the nodes that were chosen"):
        placed('{"local": [0, 1]}', *nodes, only=["Qmb"])


def test_a_bigger_role_wants_a_bigger_node() -> None:
    nodes = [node("a", 9.0, 1 << 30), node("b"), node("c")]
    made = plan([Role("local", 0)], nodes, "", memory=2 << 30)
    assert made.cluster.places[0].name in ("b", "c") and made.cluster.memory == 2 << 30
