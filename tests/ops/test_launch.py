import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops import launch
from ops.launch import (
    ROOT,
    MissingDeviceError,
    UsageError,
    arguments,
    environment_names,
    make_words,
    read_env_file,
    set_defaults,
)

NOTHING: frozenset[str] = frozenset()
SENTENCES = st.text(st.characters(exclude_categories=["Cs", "Cc"]))


def as_make_writes(words: dict[str, str]) -> str:
    def escaped(text: str) -> str:
        return "".join({"$": "$$", " ": "\\ ", "\t": "\\\t", "\\": "\\\\"}.get(c, c) for c in text)

    return " -- " + " ".join(f"{name}={escaped(value)}" for name, value in reversed(words.items()))


@given(st.dictionaries(st.sampled_from(["goal", "learner.batch_size", "RUN"]), SENTENCES))
def test_words_given_to_make_come_back_in_order(words):
    assert list(make_words(as_make_writes(words)).items()) == list(words.items())


@pytest.mark.parametrize("makeflags", ["", " -j3 --jobserver-auth=3,4", "s", "w -- "])
def test_make_without_words_gives_none(makeflags):
    assert make_words(makeflags) == {}


def test_a_macs_make_writes_no_separator_without_flags():
    assert make_words(r"task=place goal=Lift\ it.") == {"goal": "Lift it.", "task": "place"}


def test_a_goal_may_look_like_makes_own_separator():
    assert make_words(as_make_writes({"goal": "a -- b=c"})) == {"goal": "a -- b=c"}


def test_upper_case_words_of_a_target_become_its_arguments_and_flags_come_first():
    words = {"RUN": "runs/x", "episodes": "200", "ARGS": "--seed 3"}
    got = arguments(words, taken=("RUN",), environment=NOTHING)
    assert got == ["--seed", "3", "run=runs/x", "episodes=200"]


@pytest.mark.parametrize(
    "words", [{"RUNS": "x"}, {"task:": "place"}, {"task?": "place"}, {"": "x"}]
)
def test_a_word_that_nothing_takes_is_refused(words):
    with pytest.raises(UsageError):
        arguments(words, taken=("RUN",), environment=NOTHING)


def test_environment_names_are_no_arguments():
    words = {"REWARDER_PORT": "1"}
    got = arguments(words, taken=(), environment=frozenset({"REWARDER_PORT"}))
    assert got == []


def test_an_env_file_has_comments_quotes_and_empty_values():
    text = "# a note\n\nREWARDER_URL=\nexport LOG_DIR='my logs'\nREWARDER_PORT=18081 \n"
    assert read_env_file(text) == {"LOG_DIR": "my logs", "REWARDER_PORT": "18081"}


def test_a_bad_line_in_an_env_file_is_named():
    with pytest.raises(UsageError, match=r"line 2 .*'PORT: 3'"):
        read_env_file("A=1\nPORT: 3\n")


def test_the_environment_comes_before_the_env_file(tmp_path: Path):
    (tmp_path / ".env").write_text("REWARDER_PORT=1\nLOG_DIR=there\n")
    environ = {"REWARDER_PORT": "2"}
    set_defaults(environ, tmp_path / ".env")
    assert (environ["REWARDER_PORT"], environ["LOG_DIR"]) == ("2", "there")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux draws by EGL")
def test_a_missing_drawing_library_is_named_with_its_package(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(launch.ctypes, "CDLL", missing)
    launch.check_drawing("osmesa")
    with pytest.raises(MissingDeviceError, match="apt-get install libegl1"):
        launch.check_drawing("egl")


def test_the_example_names_everything_and_reads_as_an_env_file():
    example = (ROOT / ".env.example").read_text()
    assert read_env_file(example)["REWARDER_PORT"] == "18080"
    assert environment_names(example) >= {
        "POLICY_SERVER_HOST",
        "POLICY_SERVER_PORT",
        "POLICY_SERVER_URL",
        "REWARDER_HOST",
        "REWARDER_PORT",
        "REWARDER_URL",
        "ACTIONS_PER_CHUNK",
        "CHUNK_SIZE_THRESHOLD",
        "LOG_DIR",
    }
