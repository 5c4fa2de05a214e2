"""The SDK, against a stand-in backend."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from nbgpu import engines, errors
from nbgpu.client import Client, Endpoint, connect
from nbgpu.verbs.call import Call

from tests.support.api import Api, request_row


@pytest.fixture
def gpu(api: Api) -> Any:
    return connect()


def test_verbs_are_methods_with_their_signatures(gpu: Any) -> None:
    assert {"deploy", "ls", "stop", "chart", "ask"} <= set(dir(gpu))
    assert "serve" not in dir(gpu)
    parameters = inspect.signature(gpu.deploy).parameters
    assert list(parameters)[:2] == ["model", "name"] and gpu.deploy.__doc__.startswith(
        "Serve a model"
    )
    assert "context" not in inspect.signature(gpu.chart).parameters
    with pytest.raises(AttributeError, match="Did you mean deploy"):
        _ = gpu.depoly
    with pytest.raises(TypeError):
        gpu.stop("chat", "now")


def test_a_deployed_endpoint_is_a_handle(gpu: Any) -> None:
    ep = gpu.deploy("Org/M", name="chat", idle="5m")
    assert isinstance(ep, Endpoint) and ep.data.workers.idle_timeout == 300
    answer = ep.ask("hello there")
    assert str(answer) == "hello there " and answer.usage == {"completion_tokens": 35}
    assert answer.tokens == 35 and answer.tokens_per_s == pytest.approx(48.57, abs=0.01)
    assert list(ep.ask("a b c", stream=True)) == ["a ", "b ", "c "]
    assert str(ep.ask("go on", raw=True)) == "go on "
    assert ep.why().why.name == "chat" and len(ep.logs(tail=5).lines) == 5
    assert ep.stop() is ep and ep.state == "stopped"
    assert ep.start().state == "asleep" and ep.show().state == "asleep"
    ep.delete()
    with pytest.raises(errors.NotFound):
        gpu.endpoint("chat")


def test_openai_speaks_to_the_endpoint(gpu: Any) -> None:
    client = gpu.deploy("Org/M", name="chat").openai
    assert str(client.base_url).rstrip("/").endswith("/v2/chat/openai/v1")
    assert client.api_key == gpu.backend.token


def test_metrics_are_frames(gpu: Any, api: Api) -> None:
    ep = gpu.deploy("Org/M", name="chat")
    assert ep.metrics().empty
    api.requests = [request_row(0, cold=True), request_row(1)]
    found = ep.metrics()
    assert (
        str(found["arrived"].dtype).startswith("datetime64[") and found["arrived"].dt.tz is not None
    )
    assert found["cost"].sum() == pytest.approx(0.0006) and "arrived_us" not in found
    assert ep.workers_timeline().empty and ep.ledger().empty


def test_an_answer_without_a_chat_template_says_what_to_do() -> None:
    from nbgpu.wire import engine_error

    assert "--raw" in str(engine_error({"message": "no chat template is defined"}))


def test_of_a_changed_object_only_what_differs_is_said() -> None:
    from nbgpu.flows import _change

    old, new = {"name": "vllm", "options": ["-a"]}, {"name": "vllm", "options": []}
    assert list(_change("engine", old, new)) == ["engine.options -a → none"]
    assert list(_change("env", None, "x")) == ["env none → x"]


def test_closing_a_stream_early_cancels_the_request(gpu: Any, api: Api) -> None:
    ep = gpu.deploy("Org/M", name="chat")
    api.words_pause_s = 0.02
    stream = ep.ask("word " * 500, stream=True)
    assert next(stream) == "word "
    stream.close()
    assert api.cancelled.wait(10)


def test_a_broken_connection_is_tried_again_once_if_that_does_no_harm(gpu: Any, api: Api) -> None:
    gpu.deploy("Org/M", name="chat")
    api.drop_next = True
    assert list(gpu.ls()) == ["chat"]
    api.drop_next = "DELETE"
    with pytest.raises(errors.BackendDown, match="Whether it was carried out is unknown"):
        gpu.delete("chat")
    assert list(gpu.ls()) == ["chat"]


def test_a_new_token_is_found(gpu: Any, api: Api) -> None:
    gpu.ls()
    api.token = "another"
    api.announce()
    assert len(gpu.ls()) == 0


def test_an_answer_that_is_not_understood_says_so(gpu: Any) -> None:
    with pytest.raises(errors.BackendDown, match="different versions"):
        gpu.send(Call("GET", "/nbgpu/v1/settings", "Summary"))


def test_a_proxy_of_the_environment_is_not_used(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert len(Client().do("ls")) == 0


def test_a_backend_that_does_not_start_is_one_sentence(tmp_path: Any, monkeypatch: Any) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NBGPU_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(errors.OneLine, match="cannot be written"):
        Client().do("ls")


def test_engines_are_listed_from_their_folders(
    api: Api, gpu: Any, monkeypatch: Any, tmp_path: Any
) -> None:
    monkeypatch.setenv("NBGPU_ENGINES", str(tmp_path / "engines"))
    assert "not installed" in gpu.engine().text()
    place = tmp_path / "engines" / "vllm-cpu-1.2-py3"
    place.mkdir(parents=True)
    (place / "engine.json").write_text('{"version": "1.2"}')
    assert "unfinished" in gpu.engine("ls").text()
    (place / ".complete").touch()
    assert "1.2" in gpu.engine("ls").text() and "installed" in gpu.engine("ls").text()
    with pytest.raises(errors.UsageProblem, match="no engine sglang"):
        gpu.engine("add", "sglang")


def test_installing_an_engine_passes_its_lines_on(api: Api, monkeypatch: Any) -> None:
    said: list[str] = []
    client = Client(say=said.append)
    monkeypatch.setitem(engines.INSTALLERS, "vllm", "this")  # it prints lines and ends well
    client.do("engine", action="add", name="vllm")
    assert "Beautiful is better than ugly." in said
    monkeypatch.setitem(engines.INSTALLERS, "vllm", "no_such_module")
    with pytest.raises(errors.ServiceError, match=r"vllm was not installed: .*no_such_module"):
        client.do("engine", action="add", name="vllm")


def test_status_names_the_backend_of_now(gpu: Any, api: Api) -> None:
    gpu.ls()
    api.version = "0.0.new"
    api.announce()
    assert gpu.status().to_dict()["backend"]["version"] == "0.0.new"
