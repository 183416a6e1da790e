"""Models of transformers that are filled with a merge. Imports transformers only when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from thalweg._errors import UsageError

if TYPE_CHECKING:
    from thalweg import Plan


def from_pretrained(
    plan: Plan, auto_class: Any, *, threads: int | None = None, memory: int | str | None = None, **options: Any
) -> Any:
    """The model that ``auto_class.from_pretrained`` would load from the written merge, without writing it.

    ``auto_class`` is a class of transformers, such as ``AutoModelForCausalLM`` or ``LlamaForCausalLM``. ``options`` are
    its own, such as ``dtype`` and ``device_map``. The config comes from the checkpoint whose config the merge would
    have: ``plan.side_files_from``.
    """
    import transformers

    import thalweg
    from thalweg import _load

    folder = plan.side_files_from
    if folder is None or not (folder / "config.json").is_file():
        raise UsageError(
            f"`{folder}` has no `config.json`, which says what the model is",
            "name a folder that has one with `side_files_from` in the plan, or use `load_into`",
        )
    merge = thalweg.merge(plan, threads=threads, memory=memory)
    config = options.pop("config", None)
    if config is None:
        given = {name: options[name] for name in ("trust_remote_code",) if name in options}
        config = transformers.AutoConfig.from_pretrained(folder, **given)
    state = merge.state_dict()
    merged = _load.one_float_dtype(state.values())
    if merged is not None and getattr(config, "dtype", None) is not None:
        # As in the config that is written with the merge.
        config.dtype = merged
    model = _class_for(auto_class, config).from_pretrained(None, config=config, state_dict=state, **options)
    if hasattr(model, "generation_config") and (folder / "generation_config.json").is_file():
        model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    return model


def _class_for(auto_class: Any, config: Any) -> Any:
    """The class of the model: auto classes take no state dict."""
    known = getattr(auto_class, "_model_mapping", None)
    if known is None:
        return auto_class
    try:
        found = known[type(config)]
    except KeyError:
        raise UsageError(
            f"{auto_class.__name__} has no model for {type(config).__name__}",
            "give the class of the model itself",
        ) from None
    if not isinstance(found, (list, tuple)):
        return found
    names = getattr(config, "architectures", None) or []
    return next((one for one in found if one.__name__ in names), found[0])
