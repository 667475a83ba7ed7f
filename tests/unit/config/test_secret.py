"""`Secret`: a reference to a value that is stored outside the config and is never shown."""

import pickle

import pytest

from tidegate.config.secret import Secret


@pytest.mark.parametrize("reference", ["env:NAME", "file:/run/secrets/key", "file:relative:with:colons", "env:a b"])
def test_a_reference_names_a_variable_or_a_file(reference):
    secret = Secret(reference)
    assert secret.reference == reference
    assert repr(secret) == str(secret) == f"Secret({reference})"


@pytest.mark.parametrize("text", ["sk-abc", "", "env:", "file:", "env", "ENV:NAME", "vault:x", ":x", " env:NAME"])
def test_a_text_that_is_no_reference_is_refused_and_not_repeated(text):
    """The text may be the secret itself."""
    with pytest.raises(ValueError, match="write env:NAME or file:PATH") as caught:
        Secret(text)
    assert "sk-abc" not in str(caught.value)
    assert "vault" not in str(caught.value)


def test_a_variable_is_read_by_resolve_and_not_before():
    environ = {}
    secret = Secret.from_env("KEY")
    environ["KEY"] = " sk-abc\n"
    assert secret.resolve(environ) == "sk-abc"


def test_a_file_is_read_without_the_white_space_around_it(tmp_path):
    (tmp_path / "key").write_text("  sk-abc\n")
    assert Secret(f"file:{tmp_path}/key").resolve({}) == "sk-abc"


@pytest.mark.parametrize("environ", [{}, {"KEY": ""}, {"KEY": "  "}])
def test_a_variable_that_is_not_set_is_named_with_the_cure(environ):
    with pytest.raises(ValueError, match="the environment variable KEY is not set; export it"):
        Secret("env:KEY").resolve(environ)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match="missing cannot be read"):
        Secret(f"file:{tmp_path}/missing").resolve({})
    with pytest.raises(ValueError, match="cannot be read"):
        Secret(f"file:{tmp_path}").resolve({})
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ValueError, match="is empty"):
        Secret(f"file:{tmp_path}/empty").resolve({})
    (tmp_path / "binary").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="not UTF-8"):
        Secret(f"file:{tmp_path}/binary").resolve({})


@pytest.mark.parametrize("value", ["sk abc", "sk\r\nx: y", "sk-é", "sk\x00", "sk\x7f"])
def test_a_value_that_cannot_be_sent_in_a_header_is_refused_and_not_repeated(value):
    with pytest.raises(ValueError, match="env:KEY holds cannot be sent in a header") as caught:
        Secret("env:KEY").resolve({"KEY": value})
    assert "sk" not in str(caught.value)


def test_secrets_with_the_same_reference_are_equal():
    assert Secret("env:A") == Secret.from_env("A")
    assert Secret("env:A") != Secret("env:B")
    assert Secret("env:A") != "env:A"
    assert len({Secret("env:A"), Secret("env:A"), Secret("env:B")}) == 2


def test_a_copy_holds_no_more_than_the_reference(monkeypatch):
    """The object does not keep the value, so dumping or logging it cannot show the value."""
    monkeypatch.setenv("KEY", "sk-abc")
    secret = Secret("env:KEY")
    secret.resolve()
    assert b"sk-abc" not in pickle.dumps(secret)


def test_a_private_key_has_several_lines(tmp_path):
    """`read` returns such a value; `resolve` refuses it, as a header has one line."""
    (tmp_path / "pem").write_text("-----BEGIN-----\nabc\n")
    secret = Secret(f"file:{tmp_path}/pem")
    assert secret.read({}) == "-----BEGIN-----\nabc"
    with pytest.raises(ValueError, match="cannot be sent in a header"):
        secret.resolve({})
