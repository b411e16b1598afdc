"""What a stage of training is to the rest of the product: an object that answers, so that nobody asks which one it is.

A stage is a module of this room that defines a `Stage` and the `Settings` it reads, e.g. posttrain_verl/verl/sft.py. Its trunk
yaml in conf/ names it (`posttrain.stage: sft`). docs/verl.md shows how to add one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from posttrain_verl.base_models.shape import Shape
from posttrain_verl.terminal.problem import Problem, warning
from posttrain_verl.verl import checks
from posttrain_verl.verl.job import GIB, Batch, Job, TrainedModel, counted
from posttrain_verl.verl.metrics import VALIDATION_LOSS, Metric
from posttrain_verl.verl.row_terms import MeasuredLength, RowLimit, RowRule
from posttrain_verl.verl.settings import ModelSettings, RewardSettings, Rollout, Scorer, Setting, View


class Settings(View):
    """What every stage has: data, steps, devices, checkpoints and logs. A stage adds its own (`SftSettings`, `RlSettings`)."""

    model_types: ClassVar[tuple[type[ModelSettings], ...]]  # what VeRL trains; the first is the model of the run
    length_names: ClassVar[tuple[str, ...]] = ()  # the settings whose sum is the longest sequence
    data_endings: ClassVar[
        tuple[str, ...]
    ] = ()  # the names of data files that VeRL reads; none: any, and Parquet alone
    row_noun: ClassVar[str] = "row"  # what a row of the data is called
    # {mix} and {name} are the mix of the launch and the folder that a file should lie in.
    missing_data_remedy: ClassVar[str] = "give the path of a Parquet file that exists"
    columns_remedy: ClassVar[str] = "python -m posttrain_verl.prep writes such files; docs/data.md lists the columns"
    rollout: Rollout | None = (
        None  # the engine that samples answers while training, where the stage does not train on given rows
    )

    train_files = Setting[Any]("data.train_files")
    val_files = Setting[Any]("data.val_files")
    train_max_samples = Setting[int]("data.train_max_samples")
    val_max_samples = Setting[int]("data.val_max_samples")
    shuffles = Setting[bool]("data.shuffle", default=True)
    train_batch_size = Setting[int]("data.train_batch_size")
    dataset_class = Setting[str | None]("data.custom_cls.path")
    truncation = Setting[str]("data.truncation")
    template_arguments = Setting[DictConfig | None]("data.apply_chat_template_kwargs")
    gpus_per_node = Setting[int]("trainer.n_gpus_per_node")
    nodes_count = Setting[int]("trainer.nnodes")
    device = Setting[str]("trainer.device")
    total_steps = Setting[int | None]("trainer.total_training_steps")
    total_epochs = Setting[int]("trainer.total_epochs")
    save_every = Setting[Any]("trainer.save_freq")
    validate_every = Setting[Any]("trainer.test_freq")
    validate_first = Setting[bool | None]("trainer.val_before_train")
    loggers = Setting[Any]("trainer.logger")
    checkpoint_dir = Setting[str]("trainer.default_local_dir")
    experiment_name = Setting[str]("trainer.experiment_name")
    resume_mode = Setting[str]("trainer.resume_mode")
    resume_path = Setting[str | None]("trainer.resume_from_path")
    profile_interval = Setting[Any]("trainer.profile_interval")
    ray_options = Setting[DictConfig | None]("ray_kwargs.ray_init")
    ray_address = Setting[str | None]("ray_kwargs.ray_init.address")
    ray_cpus = Setting[int | None]("ray_kwargs.ray_init.num_cpus")
    ray_dashboard_port = Setting[int | None]("ray_kwargs.ray_init.dashboard_port")
    ray_metrics_port = Setting[int | None]("ray_kwargs.ray_init._metrics_export_port")

    def files(self, name: str) -> list[str]:
        """The data files of `train_files` or `val_files`, as they are given: one, several or none."""
        value = getattr(self, name)
        return [str(file) for file in ([value] if isinstance(value, str) else value or []) if file]

    @property
    def world_size(self) -> int:
        """Devices of all nodes."""
        return int(self.nodes_count * self.gpus_per_node)

    @property
    def models(self) -> list[ModelSettings]:
        """The models that are trained; the first is the one that the run is about."""
        return [kind(self.tree) for kind in self.model_types]

    @property
    def model(self) -> ModelSettings:
        """The model that the run is about."""
        return self.models[0]

    @property
    def reward(self) -> RewardSettings | None:
        """What grades sampled answers; None where nothing is graded."""
        return None

    @property
    def logger_names(self) -> list[str]:
        """The loggers, one or several in VeRL's config."""
        given = [self.loggers] if isinstance(self.loggers, str) else self.loggers or []
        return [str(name) for name in given]

    @property
    def columns(self) -> dict[str, str]:
        """The columns of a row and the kind of each: chat, answer, text or truth. The first begins the conversation."""
        raise NotImplementedError

    @property
    def conversations(self) -> list[tuple[str, ...]]:
        """The columns that one after the other are a conversation, for each conversation of a row."""
        return [(column,) for column, kind in self.columns.items() if kind == "chat"]

    @property
    def row_rules(self) -> tuple[RowRule, ...]:
        """What the stage asks of its rows beside what every conversation must be."""
        return ()

    @property
    def side_columns(self) -> dict[str, tuple[str, bool]]:
        """Columns that a row may have: the kind of each (struct, list or flag), and whether it may be null."""
        return {}

    @property
    def media(self) -> dict[str, str]:
        """Columns of pictures and the like, each with the mark that stands for one in the text of a turn."""
        return {}

    @property
    def row_limit(self) -> RowLimit:
        """How long a row may be, and what VeRL does to a longer one."""
        raise NotImplementedError

    @classmethod
    def measured_lengths(cls) -> tuple[MeasuredLength, ...]:
        """The lengths that the trainer logs, each with its limit."""
        return ()

    @classmethod
    def written_limit_key(cls) -> str:
        """The key that limits what the model writes, or learns to write: the last of the lengths."""
        return cls.key(cls.length_names[-1])

    @property
    def mismatch_override(self) -> str | None:
        """The override that trains on rows whose turns, rendered alone, do not add up; None where VeRL does not compare them."""
        return None

    def ports(self) -> Iterator[tuple[str, Any]]:
        """Keys that fix a port and are in force, each with its value."""
        for name in ("ray_dashboard_port", "ray_metrics_port"):
            yield self.key(name), getattr(self, name)
        if self.rollout:
            yield from self.rollout.ports()

    @property
    def longest(self) -> int:
        """The longest sequence in tokens."""
        return sum(int(getattr(self, name)) for name in self.length_names)

    @property
    def longest_group(self) -> int:
        """The most tokens that one micro batch must hold: the longest sequence, or as many of them as stay together."""
        return self.longest * self.model.group

    @property
    def longest_key(self) -> str:
        """The keys that add up to `longest`, e.g. `data.max_length`."""
        return " + ".join(self.keys(*self.length_names))

    @property
    def has_lengths(self) -> bool:
        """Whether `longest` is a number; where it is not, preflight says so."""
        return all(isinstance(getattr(self, name), int) for name in self.length_names)

    @property
    def micro_batches(self) -> list[tuple[ModelSettings | Scorer, int]]:
        """What is cut into micro batches, each with the sequences of which a device takes its share at a time."""
        return [(self.model, self.train_batch_size)]

    def batch(self) -> Batch:
        """The arithmetic of one step, where the numbers are sound: by default each row is a sequence, and a step one update."""
        return self._count_batch()

    def _count_batch(self, rollouts: int = 1, updates: int = 1, noun: str = "row") -> Batch:
        """A step in which each row becomes so many sequences, called `noun`, and the model learns so many times."""
        model, split = self.model, self.model.gpus_per_sequence
        dynamic = bool(model.dynamic_batches)
        return Batch(self.train_batch_size, rollouts, updates, max(self.world_size // split, 1), split,
                     None if dynamic else (model.micro_batch_size or 1) * model.group,
                     model.token_budget if dynamic else None, self.longest, noun, model.group)  # fmt: skip

    def experiment_keys(self) -> tuple[str, ...]:
        """The keys that say what is learned from what, rather than how the machine does it."""
        names = ("train_batch_size", "total_steps", "total_epochs", "train_max_samples", "val_max_samples")
        return *self.keys(*names, *self.length_names), *self.model.keys("lr", "lora_rank")

    def describe_step(self) -> str:
        """What one step trains on, e.g. "16 rows a step"."""
        return f"{counted(self.train_batch_size, self.row_noun)} a step"

    def describe_models(self, shape: Shape, fill: float) -> Iterator[TrainedModel]:
        """Each trained model in the terms of the memory model; see `job`."""
        sequences = self.batch().effective * self.model.gpus_per_sequence // self.world_size
        yield self.model.describe(shape, self.world_size, self.longest, sequences, fill,
                                  logit_bytes=self.model.logit_bytes(0, entropy=False))  # fmt: skip

    def job(self, shape: Shape, facts: Any, fill: float = 1.0) -> Job:
        """What the memory model reads of the launch on the machine of `facts`, a node of conf/hardware.

        `fill` is the length of a sequence as a share of the longest: 1 for the worst case.
        """
        memory, host_memory = (facts.memory_gb or 0) * GIB, (facts.host_memory_gb or 0) * GIB
        return Job(self.world_size, self.gpus_per_node, memory, host_memory, tuple(self.describe_models(shape, fill)),
                   saves_model="hf_model" in (self.model.save_contents or []))  # fmt: skip

    @property
    def effective_batch_key(self) -> str:
        """The key that says how many rows or prompts one optimizer step takes."""
        return self.key("train_batch_size")

    def batch_problems(self) -> list[Problem]:
        """What VeRL would refuse of the batch; only the wrong numbers where there are some."""
        numbers = (*self.keys("train_batch_size"), *self._batch_numbers(), *self.keys("gpus_per_node", "nodes_count"))
        wrong = [(key, value) for key in numbers if not is_count(value := OmegaConf.select(self.tree, key))]
        return [
            Problem(f"{key}={value} is not a whole number above 0", f"set {key} to one") for key, value in wrong
        ] or list(self._uneven_batches())

    def engine_problems(self, facts: dict[str, Any], hardware: DictConfig) -> Iterator[Problem]:
        """How models and the rollout engine do not go with the devices of `hardware`, a node of conf/hardware.

        `facts` is the config.json of the model.
        """
        for model in self.models:
            yield from checks.check_sharding(model, self.world_size, facts)
        if self.device == "cpu" and self.model.strategy == "fsdp":  # FSDP1 runs on CUDA alone
            yield Problem(
                f"{self.model.override('strategy')} needs a CUDA device", self.model.override("strategy", "fsdp2")
            )
        limit = facts.get("max_position_embeddings")
        if limit and self.has_lengths and self.longest > limit:
            what = f"{self.longest_key}={self.longest} is more than the model's context of {limit} tokens"
            yield Problem(what, f"{self.longest_key}={limit} or less")

    def training_problems(self) -> Iterator[Problem]:
        """Settings of the stage that VeRL accepts and that spoil a training."""
        if self.truncation == "left":
            what = f"{self.override('truncation')} cuts the prompt of a long row and keeps its answer"
            yield warning(what, self.override("truncation", "right"))
        model = self.model
        if model.packed_rows is False and model.sequence_parallel > 1:
            remedy = f"{model.override('packed_rows', True)}, or {model.override('sequence_parallel', 1)}"
            yield Problem(f"{model.key('sequence_parallel')} > 1 needs packed rows", remedy)

    def frequency_problems(self) -> Iterator[Problem]:
        """What the trainer makes of the frequencies of checkpoints and validations."""
        return iter(())

    def warmup_problems(self, steps: int) -> Iterator[Problem]:
        """Phases before the real training that are as long as all of its `steps`."""
        warmup = self.model.warmup_steps
        if isinstance(warmup, int) and warmup >= steps:
            what = f"{self.model.override('warmup_steps')} warms up in all {steps} steps: the learning rate stays below its value"
            yield warning(what, f"{self.model.key('warmup_steps')} below {steps}")

    @property
    def resumes_from_path(self) -> bool:
        """Whether the run resumes from the checkpoint of `resume_path`."""
        return self.resume_mode == "resume_path"

    @property
    def grader(self) -> str:
        """The name of the reward function, as it stands on the stack of a process that grades; "" where nothing is graded."""
        return ""

    @property
    def graders_per_node(self) -> int:
        """Processes that grade on one node; VeRL places them on the nodes in turn (verl 0.9.1, reward_loop)."""
        return 0

    def rehearsal_overrides(self, steps: int, reward: str) -> list[str]:
        """The overrides that make the launch small: `steps` steps on one device, a checkpoint and a validation at the end.

        `reward` is the module of the reward function that calls the launch's own.
        """
        values = {"total_steps": steps, "total_epochs": 100, "save_every": steps, "validate_every": steps,
                  "loggers": "[console,file]", "gpus_per_node": 1, "nodes_count": 1, "train_max_samples": 64,
                  "val_max_samples": REHEARSAL_ROWS}  # fmt: skip
        return self.assign_all(values)

    def not_rehearsed(self) -> list[str]:
        """What these settings turn on that is off, or means nothing, on a CPU."""
        found = [
            what
            for model in self.models
            for turned_on, what in (
                (model.gpus_per_sequence > 1, "sequence parallelism (Ulysses)"),
                (model.dynamic_batches, "dynamic batches of packed rows"),
                (model.param_offload, f"offload of the {model.name}"),
                (model.optimizer_offload, "offload of the optimizer"),
            )
            if turned_on
        ]
        return list(dict.fromkeys(found))

    def is_readable(self) -> bool:
        """Whether all that the plan reads has the kind that it reads: the plan must not trip over what preflight reports."""
        return all(fits(self._read(key)) for fits, keys in self._keys_of_plan() for key in keys)

    @property
    def uses_fsdp(self) -> bool:
        """Whether the memory model covers the engine: FSDP with readable numbers."""
        return self.is_readable() and self.model.strategy in ("fsdp", "fsdp2")

    def _keys_of_plan(self) -> Iterator[tuple[Callable[[Any], bool], Iterable[str]]]:
        """What the plan reads: a condition, and the keys whose values must meet it."""
        yield is_count, self.keys("nodes_count", "gpus_per_node", "train_batch_size", *self.length_names)
        yield is_number, [self.model.key("lr")]
        for model in self.models:
            yield is_count, model.keys("sequence_parallel", "token_budget")
            yield is_number, model.keys("fsdp_size", "lora_rank")
            yield is_count_or_null, model.keys("micro_batch_size")
            yield is_node_or_null, model.keys("mixed_precision")

    def _batch_numbers(self) -> tuple[str, ...]:
        """The keys that must be whole numbers above 0 before a batch can be judged, beside rows and devices."""
        return self.keys(*self.length_names) + self.model.keys("sequence_parallel")

    def _uneven_batches(self) -> Iterator[Problem]:
        """Rows that the devices cannot share evenly."""
        model, rows = self.model, self.train_batch_size
        split = model.gpus_per_sequence
        yield from self._check_split(split)
        yield from checks.check_divides(
            self.key("train_batch_size"), rows, self._data_parallel(split), "data-parallel GPUs"
        )
        yield from self._check_micro_batches(model, rows, split, f"{self.row_noun}s a GPU")

    def _check_split(self, split: int) -> Iterator[Problem]:
        """The devices that share a sequence must divide all."""
        if self.world_size % split:
            what = f"{self.world_size} GPUs do not divide by ulysses_sequence_parallel_size={split}"
            yield Problem(what, "set it to a divisor of the number of GPUs")

    def _data_parallel(self, split: int) -> int:
        """Ranks that share the data where `split` devices share a sequence; all devices where they cannot."""
        return self.world_size if self.world_size % split else self.world_size // split

    def _check_micro_batches(
        self, view: ModelSettings | Scorer, sequences: int, split: int, unit: str
    ) -> Iterator[Problem]:
        """How a device cuts its share of `sequences`, where these divide evenly."""
        ranks = self._data_parallel(split)
        if view.dynamic_batches:
            yield from checks.check_token_budget(view, split, self.longest, self.longest_key)
        elif sequences % ranks == 0:
            yield from checks.check_micro_batch_size(view, sequences // ranks, unit)

    def _read(self, key: str) -> Any:
        try:
            return OmegaConf.select(self.tree, key)
        except OmegaConfBaseException:  # a value where a node should be, or an interpolation that leads nowhere
            return "unreadable"


REHEARSAL_ROWS = 8  # of a validation, and of a step


def is_count(value: Any) -> bool:
    """Whether a value is a whole number above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def is_number(value: Any) -> bool:
    """Whether a value is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_count_or_null(value: Any) -> bool:
    """Whether a value is null or a whole number above 0."""
    return value is None or is_count(value)


def is_node_or_null(value: Any) -> bool:
    """Whether a value is null or a mapping."""
    return value is None or OmegaConf.is_dict(value)


class Stage:
    """A stage of training. `name` is the value of `posttrain.stage`, `trunk` the config of VeRL that it grows from."""

    name: ClassVar[str]
    trunk: ClassVar[str]
    settings_type: ClassVar[type[Settings]]
    cpus_per_device: ClassVar[int]  # that VeRL's placement groups ask Ray for, beside each device
    loader_file: ClassVar[str] = "data.pt"  # of a checkpoint: the state of the data loader
    weights_folder: ClassVar[str] = ""  # of a checkpoint: the name of the trained model, where each model has a folder
    usual_lr: ClassVar[tuple[float, float]] = (5e-8, 1e-4)  # learning rates in use, with room of about a factor of ten
    usual_lora_lr: ClassVar[tuple[float, float]] = (5e-7, 1e-3)
    ends_with_epoch: ClassVar[bool] = False  # a run that resumes at the end of an epoch ends without training
    needed_files: ClassVar[tuple[str, ...]] = ("train_files",)  # settings that must name data
    saves_last_step: ClassVar[bool] = True  # also where `save_every` says never
    fewest_checkpoints: ClassVar[int] = 1  # to keep, so that a run which is killed at any moment can resume
    dead_keys: ClassVar[Mapping[str, str]] = {}  # legacy keys that compose and are ignored, with the live key of each
    headline: ClassVar[Metric] = VALIDATION_LOSS  # what a sweep searches for where no accuracy is measured
    decides_checkpoint: ClassVar[Metric | None] = (
        None  # of a validation: the best checkpoint is the result; None: the newest
    )
    aligns: ClassVar[bool] = False  # a model that answers already: random weights are no beginning
    own_metrics: ClassVar[tuple[Metric, ...]] = ()  # logged by no other stage: the report draws each

    def settings(self, tree: DictConfig) -> Settings:
        """VeRL's config under names of ours."""
        return self.settings_type(tree)

    def shipped_tree(self, choices: dict[str, str]) -> dict[str, Any] | None:
        """The composed trunk as VeRL ships it, where it ships it for these choices of its groups."""
        return None

    def complete(self, tree: DictConfig, user_keys: frozenset[str]) -> None:
        """Set what follows from other settings, unless it is among the keys that the user set, and the stage's own defaults."""
        for key, default in self.settings_type.own_keys().items():
            if OmegaConf.select(tree, key) is None:
                OmegaConf.update(tree, key, default, force_add=True)

    def follow_changes(self, config: DictConfig, before: DictConfig) -> None:
        """Set anew in `config` what followed from other settings in `before`, its form before an override changed them."""

    def checkpoint_parts(self, settings: Settings) -> dict[str, ModelSettings]:
        """Each model of a checkpoint by its folder in `global_step_N`, "" for the checkpoint's own."""
        return {model.name if self.weights_folder else "": model for model in settings.models}

    def model_keys(self) -> tuple[str, ...]:
        """The keys that name a model to train, the first that of the run."""
        return tuple(kind.key("path") for kind in self.settings_type.model_types)

    def describe_training(self, settings: Settings) -> str:
        """The stage and its algorithm for a reader."""
        return self.name.upper()

    def algorithm(self, settings: Settings) -> str:
        """What evaluations call a model that was trained so: "sft", "grpo", "ppo" ..."""
        return self.name

    def file_keys(self) -> tuple[str, ...]:
        """The keys that name files beside the models."""
        return Settings.keys("train_files", "val_files")

    def seed_overrides(self, seed: int) -> list[str]:
        """The overrides that seed what VeRL draws by chance."""
        return []

    def train(self, config: DictConfig) -> None:
        """Hand the config to VeRL's own trainer, on the Ray that is already up, and return when it has ended."""
        raise NotImplementedError

    def run_paths(self, run_dir: Path) -> dict[str, str]:
        """The keys that name places in the run folder."""
        return {Settings.key("checkpoint_dir"): str(run_dir / "checkpoints")}

    def hardware_lists(self, settings: Settings) -> list[str]:
        """The lists of a file of conf/hardware that speak of a launch: `settings` and `sizes` have one for each."""
        return [self.name, *(model.name for model in settings.models[1:])]


_STAGES: dict[str, Stage] = {}
MOST_CPUS_PER_DEVICE = 10  # of VeRL 0.9.1's stages (RayResourcePool's default)
OTHER_PROCESSES = 32  # the runner, reward workers, agent loops and storage units of a run


def logical_cpus(devices: int) -> int:
    """As many CPUs as a node of `devices` must count for runs of any stage. Ray counts them and reserves no core.

    A placement group that no node can hold waits for ever, and VeRL does not say so.
    """
    return devices * MOST_CPUS_PER_DEVICE + OTHER_PROCESSES


def register(stage: Stage) -> Stage:
    """Make a stage known under its name."""
    _STAGES[stage.name] = stage
    return stage


def stage_named(name: str) -> Stage:
    """The stage of a trunk or of a plan.json.

    Raises:
        KeyError: no module of this room defines it.
    """
    if name not in _STAGES:
        module = f"posttrain_verl.verl.{name}"
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:  # of something that the module itself imports
                raise
            raise KeyError(name) from error
    return _STAGES[name]
