"""What a build says of itself, its counters, and the chat templates that it knows by heart."""

from __future__ import annotations

import pytest

from nativeload.errors import ConfigError, NotInThisBuild
from nativeload_llama import bundled_model, low_level
from nativeload_llama.errors import SamplerError, TemplateError
from nativeload_llama.library import Api, open_library

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nativeload_llama.low_level import Model


@pytest.fixture
def api(_one_cache: None) -> Api:
    return open_library()


@pytest.fixture
def model(api: Api) -> Iterator[Model]:
    loaded = low_level.model_load_from_file(api, bundled_model())
    yield loaded
    low_level.model_free(loaded)


# -- the build -----------------------------------------------------------------------------------------------------


def test_version_is_llama_cpps(api: Api) -> None:
    """version() is one that this layout was seen with."""
    assert low_level.version(api) in api.layout.versions


def test_what_a_build_can_do(api: Api) -> None:
    """The processor's features, how many devices, and which ways to load a file."""
    assert "CPU" in low_level.print_system_info(api)
    assert low_level.max_devices(api) >= 1
    assert low_level.supports_mmap(api) is True
    assert low_level.supports_mlock(api) in {True, False}
    kinds = {device.kind for device in api.loaded.devices}
    assert low_level.supports_gpu_offload(api) == bool(kinds & {"gpu", "igpu"})
    assert low_level.supports_rpc(api) is False


def test_devices_are_those_that_were_registered(api: Api) -> None:
    """With the memory that they have now."""
    found = low_level.devices(api)
    assert [device.name for device in found] == [device.name for device in api.loaded.devices]
    assert [device.description for device in found] == [device.description for device in api.loaded.devices]
    (cpu,) = (device for device in found if device.type == 0)
    assert 2**20 < cpu.memory_free <= cpu.memory_total


def test_devices_of_a_library_in_several_files(api: Api) -> None:
    """ggml's functions are found in any of them; a function that none has is not in this build."""
    from nativeload_llama.low_level import backend

    class Hidden:
        """A library whose last file alone exports nothing of ggml, as on Windows."""

        ffi, loaded = api.ffi, api.loaded

        def function(self, name: str) -> None:
            raise NotInThisBuild(name, self.loaded.path)

    hidden: Api = Hidden()  # type: ignore[assignment]
    assert backend._ggml(hidden, "ggml_backend_dev_count")() == len(api.loaded.devices)
    with pytest.raises(NotInThisBuild, match="llama_no_such"):
        backend._ggml(hidden, "llama_no_such")


def test_the_clock_goes_on(api: Api) -> None:
    """In microseconds."""
    first = low_level.time_us(api)
    assert 0 <= low_level.time_us(api) - first < 10_000_000


@pytest.mark.parametrize("strategy", [-1, 5, 4711])
def test_numa_strategies_that_are_none(api: Api, strategy: int) -> None:
    """They never reach C; the one that changes nothing does."""
    with pytest.raises(ConfigError, match=f"strategy: {strategy} is not between 0 and 4"):
        low_level.numa_init(api, strategy)
    low_level.numa_init(api, 0)


# -- counters ------------------------------------------------------------------------------------------------------


def test_counters_of_a_context(model: Model) -> None:
    """Tokens of prompts and single ones, each with its time; they can be set to zero."""
    context = low_level.init_from_model(model, n_ctx=256, n_batch=32, n_threads=1, no_perf=False)
    for tokens in ([5] * 20, [7], [7], [7]):
        low_level.decode(context, low_level.batch_get_one(context, tokens))
        low_level.synchronize(context)  # counted is what was waited for
    counted = low_level.perf_context(context)
    assert (counted.n_p_eval, counted.n_eval) == (20, 3)
    assert counted.t_p_eval_ms > 0
    assert counted.t_eval_ms > 0
    assert counted.t_load_ms > 0
    assert counted.n_reused >= 0
    low_level.perf_context_reset(context)
    assert low_level.perf_context(context).t_eval_ms == 0
    low_level.free(context)


def test_counters_of_a_chain(model: Model) -> None:
    """Tokens drawn; they can be set to zero."""
    context = low_level.init_from_model(model, n_ctx=256, n_batch=32, n_threads=1)
    low_level.decode(context, low_level.batch_get_one(context, [5]))
    chain = low_level.sampler_chain_init(model.api, no_perf=False)
    low_level.sampler_chain_add(chain, low_level.sampler_init_greedy(model.api))
    for _ in range(3):
        low_level.sampler_sample(chain, context)
    assert low_level.perf_sampler(chain).n_sample == 3
    low_level.perf_sampler_reset(chain)
    assert low_level.perf_sampler(chain).n_sample == 0
    low_level.sampler_free(chain)
    low_level.free(context)


@pytest.mark.parametrize("ask", [low_level.perf_sampler, low_level.perf_sampler_reset])
def test_one_sampler_alone_counts_nothing(api: Api, ask: Callable[[object], object]) -> None:
    """C would abort."""
    greedy = low_level.sampler_init_greedy(api)
    with pytest.raises(SamplerError, match="only a chain"):
        ask(greedy)
    low_level.sampler_free(greedy)


# -- chat templates ------------------------------------------------------------------------------------------------


def test_a_chat_becomes_a_prompt(api: Api) -> None:
    """With the beginning of an answer, or without."""
    chat = [("system", "Be kind."), ("user", "Hällo?")]
    whole = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHällo?<|im_end|>\n"
    assert low_level.chat_apply_template(api, "chatml", chat, add_assistant=False) == whole
    answer = "<|im_start|>assistant\n"
    assert low_level.chat_apply_template(api, "chatml", chat, add_assistant=True) == whole + answer
    assert low_level.chat_apply_template(api, "chatml", [], add_assistant=True) == answer


def test_a_template_is_recognised_by_its_text(api: Api) -> None:
    """As models carry it."""
    jinja = "{% for message in messages %}{{ '<|start_header_id|>' + message.role + '<|end_header_id|>' }}{% endfor %}"
    written = low_level.chat_apply_template(api, jinja, [("user", "Hi")], add_assistant=False)
    assert written == low_level.chat_apply_template(api, "llama3", [("user", "Hi")], add_assistant=False)


@pytest.mark.parametrize("messages", [[], [("", "")], [("user", "x" * 100_000)], [("nobody", "x")] * 50], ids=len)
def test_every_template_takes_any_messages(api: Api, messages: list[tuple[str, str]]) -> None:
    """However many, of any role, and of any length."""
    names = low_level.chat_builtin_templates(api)
    assert len(names) > 40
    for name in names:
        for add_assistant in (True, False):
            low_level.chat_apply_template(api, name, messages, add_assistant=add_assistant)


@pytest.mark.parametrize("template", ["", "{{ messages }}", "no such template"])
def test_a_template_that_is_not_recognised(api: Api, template: str) -> None:
    """It is refused, and the hint says what is known."""
    with pytest.raises(TemplateError, match="does not recognise") as caught:
        low_level.chat_apply_template(api, template, [("user", "Hi")], add_assistant=True)
    assert "chat_builtin_templates" in str(caught.value)


@pytest.mark.parametrize("given", [("chat\0ml", "user", "Hi"), ("chatml", "us\0er", "Hi"), ("chatml", "user", "H\0i")])
def test_a_nul_is_refused(api: Api, given: tuple[str, str, str]) -> None:
    """C would leave out what follows."""
    template, role, content = given
    with pytest.raises(TemplateError, match="NUL"):
        low_level.chat_apply_template(api, template, [(role, content)], add_assistant=True)


def test_a_text_for_c_that_is_too_long(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """C counts in 32 bits."""
    monkeypatch.setattr("nativeload_llama.low_level.chat._LARGEST", 1000)
    low_level.chat_apply_template(api, "chatml", [("user", "x" * 100)], add_assistant=True)
    with pytest.raises(TemplateError, match="404 bytes are too long"):
        low_level.chat_apply_template(api, "chatml", [("user", "x" * 400)], add_assistant=True)
