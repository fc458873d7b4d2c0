"""What a server is told is checked before anything is loaded, and refused in one line."""

from __future__ import annotations

import socket
from unittest import mock

import pytest

from fourstroke.cli import main
from fourstroke.pipeline import Pipeline
from fourstroke.serve import ServeConfig
from fourstroke.serve.server import listen


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("--port 99999", "at most 65535"),
        ("--port -1", "at least 0"),
        ("--host nowhere.invalid", "name an address of this machine"),
        ("--host 203.0.113.7", "name an address of this machine"),
        ("--host=", "name an address of this machine"),
        ("--cors http://a.example/", "write http://a.example"),
        ("--cors HTTPS://A.example:443", "write https://a.example"),
        ("--cors https://a.example/studio", "write https://a.example"),
        ("--cors a.example", "scheme and host"),
        ("--cors https://*.example", "or * alone"),
        ("--cors http://[", "cannot be read"),
        ("--cors http://a.example:99999", "cannot be read"),
        ("--queue -1", "at least 1"),
        ("--rows 0", "at least 1"),
        ("--kv-bytes -5", "at least 1"),
        ("--request-seconds nan", "above 0"),
        ("--request-seconds -3", "above 0"),
        ("--request-seconds inf", "finite"),
        ("--api-key=", "API key"),
        ("--api-key=two words", "API key"),
        ("--api-key=schlüssel", "API key"),
        ("--replicas 0:2 --ray local", "MIN:MAX"),
        ("--replicas 3:2 --ray local", "MIN:MAX"),
        ("--replicas a:b --ray local", "MIN:MAX"),
        ("--replica-load 0 --ray local", "above 0"),
        ("--replica-cpus -1 --ray local", "above 0"),
        ("--replicas 1:2", "--ray"),
        ("--ray nowhere", "host:port"),
        ("--endpoint http://127.0.0.1:1/v1", "--endpoint-model"),
        ("--endpoint-model m", "--endpoint"),
        ("--lora a=gone.safetensors:0.8", "no adapter at gone.safetensors"),
        ("--lora a=gone.safetensors:1.2.3", "1.2.3 is no strength"),
        ("--lora a=one --lora a=two", "two adapters are called a"),
    ],
)
def test_what_cannot_be_served_is_one_line_before_anything_is_loaded(arguments, reason, capsys):
    words = [arguments] if arguments.startswith("--api-key") else arguments.split()
    port = [] if "--port" in arguments else ["--port", "0"]
    with mock.patch.object(Pipeline, "from_pretrained", side_effect=AssertionError("a model was loaded")):
        assert main(["serve", *words, *port]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line
    assert "two words" not in line


def test_a_taken_port_is_one_line_before_anything_is_loaded(capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with mock.patch.object(Pipeline, "from_pretrained", side_effect=AssertionError("a model was loaded")):
            assert main(["serve", "--port", str(port)]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert f"cannot listen on port {port} of 127.0.0.1: Address already in use" in line


def test_a_port_is_held_from_the_start():
    sockets = listen(ServeConfig(port=0))
    port = sockets[0].getsockname()[1]
    with pytest.raises(ValueError, match="Address already in use"):
        listen(ServeConfig(port=port))
    for one in sockets:
        one.close()
    for one in listen(ServeConfig(port=port)):  # nothing of the first is left
        one.close()


def test_a_name_of_several_addresses_is_served_at_all_that_are_here():
    sockets = listen(ServeConfig(host="localhost", port=0))
    assert "127.0.0.1" in {one.getsockname()[0] for one in sockets}
    for one in sockets:
        one.close()


@pytest.mark.parametrize("origin", ["*", "null", "http://a.example", "https://a.example:8443", "http://[::1]:3000"])
def test_origins_as_browsers_send_them_are_taken(origin):
    assert ServeConfig(cors_origins=(origin,)).cors_origins == (origin,)
