"""One Python function for each C function of llama.h: allocate, call, check, raise.

One rule: what C would answer with a crash is refused here. Pointers are the caller's to keep: a model outlives its
contexts, and nothing here locks. Names are those of C without ``llama_``; a module is imported when a name of it is
first asked for.
"""

# ruff: noqa: F403 - for type checkers alone, and in this form names are handed on

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nativeload_llama.low_level.adapter import *
    from nativeload_llama.low_level.backend import *
    from nativeload_llama.low_level.batch import *
    from nativeload_llama.low_level.chat import *
    from nativeload_llama.low_level.context import *
    from nativeload_llama.low_level.grammar_sampler import *
    from nativeload_llama.low_level.handles import *
    from nativeload_llama.low_level.load import *
    from nativeload_llama.low_level.memory import *
    from nativeload_llama.low_level.model import *
    from nativeload_llama.low_level.perf import *
    from nativeload_llama.low_level.quantize import *
    from nativeload_llama.low_level.sampler import *
    from nativeload_llama.low_level.sampler_init import *
    from nativeload_llama.low_level.state import *
    from nativeload_llama.low_level.vocab import *

_NAMES = {
    "adapter": "adapter_lora_free adapter_lora_init adapter_meta set_adapter_cvec set_adapters_lora",
    "backend": """
        Device devices max_devices numa_init print_system_info supports_gpu_offload supports_mlock supports_mmap
        supports_rpc time_us version
    """,
    "batch": "SingleToken batch_get_one decode encode",
    "chat": "chat_apply_template chat_builtin_templates",
    "context": """
        MAX_THREADS check_prompt free get_embeddings_ith get_embeddings_seq get_logits_ith init_from_model
        n_batch n_ctx n_ctx_seq n_seq_max n_threads n_threads_batch n_ubatch pooling_type set_abort_flag
        set_causal_attn set_embeddings set_n_threads set_warmup synchronize
    """,
    "grammar_sampler": "grammar_accepts sampler_init_grammar sampler_init_grammar_lazy_patterns",
    "handles": "AbortFlag Adapter Batch Candidates Context Model Sampler",
    "load": "check_gguf model_load_from_file model_load_from_splits",
    "memory": """
        memory_can_shift memory_clear memory_seq_add memory_seq_cp memory_seq_div memory_seq_keep
        memory_seq_pos_max memory_seq_pos_min memory_seq_rm
    """,
    "model": """
        check_generates model_chat_template model_cls_label model_decoder_start_token model_desc model_free
        model_has_decoder model_has_encoder model_is_diffusion model_is_hybrid model_is_recurrent model_meta
        model_meta_count model_meta_key_by_index model_meta_val_str model_meta_val_str_by_index model_n_cls_out
        model_n_ctx_train model_n_embd model_n_embd_inp model_n_embd_out model_n_head model_n_head_kv
        model_n_layer model_n_params model_n_swa model_rope_freq_scale_train model_rope_type model_save_to_file
        model_size
    """,
    "perf": "ContextPerf SamplerPerf perf_context perf_context_reset perf_sampler perf_sampler_reset",
    "quantize": "model_quantize",
    "sampler": """
        sampler_accept sampler_apply sampler_chain_add sampler_chain_get sampler_chain_init sampler_chain_n
        sampler_chain_remove sampler_clone sampler_free sampler_get_seed sampler_name sampler_reset
        sampler_sample
    """,
    "sampler_init": """
        DEFAULT_SEED sampler_init_adaptive_p sampler_init_dist sampler_init_dry sampler_init_greedy
        sampler_init_infill sampler_init_logit_bias sampler_init_min_p sampler_init_mirostat
        sampler_init_mirostat_v2 sampler_init_penalties sampler_init_temp sampler_init_temp_ext
        sampler_init_top_k sampler_init_top_n_sigma sampler_init_top_p sampler_init_typical sampler_init_xtc
    """,
    "state": """
        state_get_data state_get_size state_load_file state_save_file state_seq_get_data state_seq_get_size
        state_seq_load_file state_seq_save_file state_seq_set_data state_set_data
    """,
    "vocab": """
        bos check_tokens detokenize token_to_piece tokenize vocab_bos vocab_cls vocab_eos vocab_eot
        vocab_fim_mid vocab_fim_pad vocab_fim_pre vocab_fim_rep vocab_fim_sep vocab_fim_suf vocab_get_add_bos
        vocab_get_add_eos vocab_get_add_sep vocab_get_attr vocab_get_score vocab_get_text vocab_is_control
        vocab_is_eog vocab_mask vocab_nl vocab_pad vocab_sep vocab_type
    """,
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'nativeload_llama.low_level' has no attribute {name!r}")
    value: object = getattr(__import__(f"{__name__}.{_HOMES[name]}", fromlist=[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(_HOMES)
