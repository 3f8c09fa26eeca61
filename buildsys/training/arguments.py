"""transformers.TrainingArguments, field by field: which decide a result, which steer a run, which a build has to refuse. No torch.

Every field of the class is in exactly one of the three; a test compares them with the installed class.
"""

from __future__ import annotations

DECISIVE = (
    "activation_checkpointing", "activation_checkpointing_kwargs", "adam_beta1", "adam_beta2", "adam_epsilon", "bf16", "data_seed",
    "eval_steps", "fp16", "gradient_accumulation_steps", "gradient_checkpointing", "gradient_checkpointing_kwargs",
    "label_smoothing_factor", "learning_rate", "lr_scheduler_kwargs", "lr_scheduler_type", "max_grad_norm", "max_steps",
    "neftune_noise_alpha", "num_train_epochs", "per_device_train_batch_size", "seed", "tf32", "torch_compile", "torch_compile_backend",
    "torch_compile_mode", "train_sampling_strategy", "use_liger_kernel", "liger_kernel_config", "warmup_steps", "weight_decay",
)  # fmt: skip
"""They enter the key: another value gives other bytes, or may."""

STEERING = (
    "dataloader_num_workers", "dataloader_persistent_workers", "dataloader_pin_memory", "dataloader_prefetch_factor",
    "ddp_backend", "ddp_broadcast_buffers", "ddp_bucket_cap_mb", "ddp_find_unused_parameters", "ddp_static_graph", "ddp_timeout",
    "include_num_input_tokens_seen", "log_level", "log_level_replica", "log_on_each_node", "logging_first_step", "logging_steps",
    "logging_strategy", "project", "report_to", "run_name", "save_steps", "save_total_limit", "skip_memory_metrics",
    "torch_empty_cache_steps", "trackio_bucket_id", "trackio_space_id", "trackio_static_space_id",
)  # fmt: skip
"""They enter no key: what is logged, saved, fetched, and how."""

_FILES = "is decided by the build: what it makes goes into cache/"
_OWN_OPTIMIZER = 'is not used: say optimizer = "apollo", "apollo-mini" or "adamw"'
_STOPPING = "is not used: early_stopping_patience keeps the best update by the loss on rows that are held out of training"
_BATCHES = "is not used: batches are made from the rows, whole and in an order that the key decides"
_SHARDED = "is not supported: a run is one process, or one for each GPU"
_HUB = "is not done by a build: build export gives a folder to upload"
REFUSED = {
    **dict.fromkeys(
        (
            "output_dir", "resume_from_checkpoint", "restore_callback_states_from_checkpoint", "save_strategy", "save_only_model",
            "save_on_each_node", "enable_jit_checkpoint",
        ),
        _FILES,
    ),
    **dict.fromkeys(("do_train", "do_eval", "do_predict"), "has no meaning here: training and verification are targets"),
    **dict.fromkeys(("optim", "optim_args", "optim_target_modules"), _OWN_OPTIMIZER),
    **dict.fromkeys(
        (
            "eval_strategy", "eval_delay", "eval_on_start", "per_device_eval_batch_size", "prediction_loss_only", "eval_do_concat_batches",
            "eval_use_gather_object", "eval_accumulation_steps", "include_for_metrics", "batch_eval_metrics", "load_best_model_at_end",
            "metric_for_best_model", "greater_is_better", "bf16_full_eval", "fp16_full_eval",
        ),
        _STOPPING,
    ),
    **dict.fromkeys(
        (
            "dataloader_drop_last", "dataloader_multiprocessing_context", "dataloader_in_order", "remove_unused_columns", "label_names",
            "length_column_name", "ignore_data_skip", "accelerator_config", "average_tokens_across_devices",
        ),
        _BATCHES,
    ),
    **dict.fromkeys(("fsdp", "fsdp_config", "deepspeed", "parallelism_config", "local_rank"), _SHARDED),
    **dict.fromkeys(
        ("push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push", "hub_revision"), _HUB
    ),
    "auto_find_batch_size": "would let memory decide the result: say per_device_train_batch_size",
    "full_determinism": "is always so, as far as the device allows",
    "use_cpu": "is decided by the machine: a GPU is used where there is one",
    "disable_tqdm": "has no meaning here: --quiet says nothing, a pipe gets lines",
    "logging_nan_inf_filter": "is always false: a loss that is no number ends the run",
    "debug": "is not passed on: each action has a log in cache/logs/",
    "use_cache": "is always false while training",
}  # fmt: skip
"""Field -> why it may not be given, as the end of a sentence that begins with its name."""
