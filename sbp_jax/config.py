"""Every field of an experiment: its type, its default, its meaning.

The dataclasses are the truth. A config file edits the `ConfigDict` that `new_config()` makes of
them, flags override it (`--config.train.tokens=...`), and `resolve()` turns the result back into
frozen dataclasses, validated by config_rules.py, which is what the rest of the code sees.
"""

import dataclasses
import difflib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_type_hints

from sbp_jax.config_rules import validate
from sbp_jax.errors import UserError

if TYPE_CHECKING:  # the step and the model need the dataclasses only
    from ml_collections import ConfigDict


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A Llama 3 decoder with per-head QK-norm. The first group of fields is its architecture."""

    num_layers: int = 4
    d_model: int = 128
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 32
    d_ff: int = 384
    vocab_size: int = 1024
    rope_theta: float = 500_000.0
    norm_eps: float = 1e-5
    qk_norm: bool = True  # RMSNorm of each query and key head before RoPE
    tie_embeddings: bool = True
    attention_bias: bool = False  # Qwen2.5: biases on the query, key and value projections
    rope_scaling: float = 1.0  # Llama 3.1: factor by which low frequencies are slowed; 1 is off
    rope_scaling_low: float = 1.0  # wavelengths above original_context / low are slowed in full
    rope_scaling_high: float = 4.0  # wavelengths below original_context / high are left alone
    rope_original_context: int = 8192
    parametrization: str = (
        "standard"  # or mup_simple: rates and logits scale with width / mup_base_width
    )
    mup_base_width: int = 128

    # How it is computed: free to change between runs of one checkpoint.
    dtype: str = "auto"  # of activations and matmuls: bfloat16, float32; auto is float32 on CPU
    attention: str = (
        "auto"  # xla | splash (TPU) | cudnn, triton (GPU); auto picks the backend's best
    )
    remat: str = "none"  # what the backward pass keeps: see transformer.REMAT_POLICIES
    scan_layers: bool = (
        True  # one compiled layer, looped; unrolled, a small model is a fifth faster on CPUs
    )
    loss_chunks: int = 1  # pieces of the sequence whose logits exist at one time
    dropout: float = 0.0  # share of each branch's output that training sets to zero, in 1/256

    @property
    def architecture(self) -> dict[str, Any]:
        """The fields that another model of the same weights differs in."""
        free = {"dtype", "attention", "remat", "scan_layers", "loss_chunks", "dropout"}
        if self.rope_scaling == 1:
            free |= {"rope_scaling_low", "rope_scaling_high", "rope_original_context"}
        if self.parametrization == "standard":
            free.add("mup_base_width")
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in free}


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; -1 (one axis at most) takes what the others leave."""

    replica: int = 1  # copies of the model; across slices or nodes with a slow network between them
    fsdp: int = -1  # batch and parameters are both split
    tensor: int = 1  # heads, MLP width and vocabulary are split
    context: int = 1  # the sequence is split
    platform: str = ""  # cpu | gpu | tpu: refuse to start on any other; empty takes what is there


@dataclasses.dataclass(frozen=True)
class Source:
    """One part of a mixture of training data."""

    input: str = ""  # as data.input
    weight: float = 1.0  # share of the training tokens, relative to the other sources
    max_passes: float = (
        0.0  # refuse to repeat it more often than this; 0 is as often as its share needs
    )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    input: str = (
        "toyworld"  # docstrings, addition, file, folder, glob, hf:NAME, seqio:NAME, a TokenStore
    )
    mixture: Mapping[str, Source] = dataclasses.field(
        default_factory=dict
    )  # several sources in place of input
    text_field: str = "text"  # of JSONL and Parquet rows
    on_error: str = "stop"  # or skip: malformed rows are counted and left out
    held_out: float = 0.02  # share of the documents kept for evaluation when eval.input is empty
    tokenizer: str = (
        ""  # a .model file, a Hugging Face folder, seqio:FILE; empty trains one of model.vocab_size
    )
    tokenizer_kind: str = "bpe"  # or unigram: what to train
    sequence_length: int = 128
    document_mask: bool = True  # packed documents do not see each other
    workers: int = 2  # processes that tokenize, threads that read ahead


@dataclasses.dataclass(frozen=True)
class ToyWorldConfig:
    """The embedded corpus (data/toyworld.py)."""

    concepts: int = 300  # half of them people; the others places, organisations and things
    documents: int = 3000  # about 80 tokens each with a vocabulary of 1,024
    held_out_documents: int = 200
    fresh_documents: int = 40_000  # of a stream that no other split sees: the oracle's data
    zipf: float = 0.7  # P(concept) ~ rank^-zipf: the rarest of 300 has about 3 of 3,000 documents
    noise: float = 0.03  # probability that a stated fact is wrong
    ambiguous: float = 0.3  # share of documents that keep the full name of their concept back
    seed: int = 0  # of the world itself, so that runs of several seeds share one


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    name: str = "adamw"  # or muon: orthogonalised momentum for matrices, AdamW for the rest
    peak_lr: float = 3e-3
    final_lr: float = 3e-4
    schedule: str = "cosine"  # or wsd: warm-up, stable, linear decay; or constant
    warmup: str = "5%"  # of the run; or "2000 steps", "1e9 tokens"
    decay: str = "20%"  # the last part of a wsd schedule, in the same units
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1  # decoupled; matrices only, not embeddings, norms or biases
    clip_norm: float = 1.0  # of the whole gradient; 0 is off
    muon_lr: float = 0.02  # peak for the matrices under muon; follows the same schedule
    muon_beta: float = 0.95


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    tokens: int = 400 * 4096  # the budget: a whole number of steps of batch_size x sequence_length
    batch_size: int = 32  # sequences a step, over all devices
    accumulate: int = 1  # the batch is computed in this many parts; the loss does not depend on it
    z_loss: float = 1e-4  # weight of log(Z)^2, which keeps logits from drifting
    log_every: int = 10
    max_skipped: int = 20  # stop after this many non-finite gradients in a row
    spike_factor: float = 2.0  # a loss this many times its running mean is logged as a spike
    profile_steps: str = ""  # "100-110": capture these into the workdir's profile folder
    tensorboard: bool = True
    wandb: str = ""  # project to log to, if any
    samples: int = 3  # texts sampled and printed at the end


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    every_steps: int = 100
    keep: int = 2  # newest ones
    keep_every_steps: int = 0  # and every M-th step for good; 0 is none


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    every_steps: int = 100  # and at the end; 0 is at the end only
    input: str = ""  # as data.input; empty holds out a part of data.input
    max_sequences: int = 512


@dataclasses.dataclass(frozen=True)
class TuningConfig:
    """How a pretrained checkpoint becomes a synthesizer p(d2 | d1); what is not here is `train`'s.

    A row is BOS, synthesis.prompt with d1 for {text}, d2, EOS; the loss counts d2 and EOS.
    """

    tokens: int = 100 * 4096  # the budget: a whole number of steps
    batch_size: int = 32
    peak_lr: float = 1e-3
    final_lr: float = 1e-4
    warmup: str = "5%"
    weight_decay: float = 0.1
    dropout: float = 0.0
    every_steps: int = 25  # the loss on unseen d2's, by which the checkpoint is chosen
    truncate: bool = False  # a pair that is too long: cut d1 from the left, or leave the pair out
    from_scratch: bool = False  # random weights instead of the checkpoint's


@dataclasses.dataclass(frozen=True)
class PairingConfig:
    """How sbp_jax.pair finds pairs of related documents. The paper gives neither its threshold nor
    its rule for near-duplicates: those here are our choice.
    """

    embedder: str = "lexical"  # hashed TF-IDF; self: the checkpoint's hidden states; or qwen3
    engine: str = "jax"  # or vllm: what computes qwen3
    model: str = ""  # folder of a Qwen3-Embedding model, for qwen3
    dimensions: int = 1024  # of lexical vectors; a model's are as many as its width
    max_tokens: int = 2048  # of a document that a model sees, and no more than its context
    neighbors: int = 5  # nearest documents that each one is tried with
    min_score: float = 0.3  # inner product of unit vectors
    max_score: float = 0.95
    pairs: int = 0  # only so many, the best; 0 is all
    min_characters: int = 0  # of either document
    max_characters: int = 0  # 0 is any number
    same_source: bool = True  # whether both may come from one source
    shingle: int = 5  # words in a row, by which overlap is measured
    max_overlap: float = 0.7  # share of the shorter one's shingles that the other has
    orders: str = "neighbors"  # d2 is d1's neighbour; both: and the other way; one: d1 comes first
    max_per_document: int = 0  # pairs that a document is the d1 of, the best; 0 is any number
    random_pairs: bool = False  # control: as many pairs with the same d1, each d2 drawn at random


@dataclasses.dataclass(frozen=True)
class SynthesisConfig:
    """What sbp_jax.synthesize asks an engine for."""

    prompt: str = "{text}"  # what a text begins with: {text} is the document; or a file of that
    chat: bool = False  # the prompt is a user's message, the text its answer
    per_document: int = 1  # texts for each document
    max_tokens: int = 256  # of a text
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0 is any token
    schema: str = ""  # file with a JSON schema that the texts have to follow
    # Which answers of a synthesizer stay, beside the filter of d1's copies, which is pairing's.
    max_overlap: float = 0.7  # with any document of the corpus, measured like pairing's; 1 is any
    max_similarity: float = 0.7  # of two texts (Jaccard, of the same shingles); 1 is any
    decontaminate: bool = True  # none that shares 13 words in a row with a document of eval.input


@dataclasses.dataclass(frozen=True)
class QualityConfig:
    """What sbp_jax.quality measures. The paper defines none of its metrics: thresholds, calibrated
    on real documents in docs/quality.md, are our choice.
    """

    samples: int = 1000  # documents measured, drawn with the seed
    duplicates: int = 1_000_000  # documents among which near-duplicates are looked for, at most
    repetition: float = 0.2  # share of a document's words in 5-grams that it has had before
    similarity: float = 0.7  # of near-duplicates: Jaccard, of shingles of pairing.shingle words
    max_overlap: float = 0.7  # above it, a text is a copy; measured like pairing's
    calibration: int = 100  # questions with known answers, of each kind, for the judge
    chat: bool = False  # the judge's prompt is a user's message
    answer_tokens: int = 16  # of the judge


@dataclasses.dataclass(frozen=True)
class EngineConfig:
    """How texts are generated: on this machine's devices (jax, vllm)."""

    batch_size: int = 64  # texts at one time
    max_length: int = 0  # of a prompt and its text; 0 is the model's sequence length
    tensor: int = 1  # devices that split the model
    memory_fraction: float = 0.9  # of a device's memory, for vLLM
    prefix_caching: bool = True  # vLLM computes a beginning that prompts share once


@dataclasses.dataclass(frozen=True)
class ApiConfig:
    """How texts are generated: by a server (api). The key is in the environment, nowhere else."""

    url: str = (
        "http://localhost:8000/v1"  # what /chat/completions or, for Anthropic, /messages follows
    )
    protocol: str = "openai"  # or anthropic
    model: str = ""  # its name there
    key_variable: str = ""  # environment variable that holds the key
    concurrency: int = 64  # requests in flight
    requests_per_minute: float = 0.0  # 0 is no limit
    tokens_per_minute: float = 0.0  # prompts and texts; 0 is no limit
    timeout_s: float = 600.0  # of one attempt
    retries: int = 8  # of one request, before it counts as failed
    input_price: float = 0.0  # of a million tokens
    output_price: float = 0.0


@dataclasses.dataclass(frozen=True)
class ArmsConfig:
    """What sbp_jax.bootstrap compares, each with the same training tokens."""

    # Also random_pairs, unconditional: controls; tuned_baseline, tuned_oracle, tuned_sbp: with the
    # best of the grid below; longer_baseline: with all the FLOPs of sbp, pairing, tuning and
    # synthesis included.
    run: str = "baseline,sbp,oracle"
    # More documents of the same kind, as data.input. Empty: those that the toy world has; where the
    # corpus is another, none, and so no oracle.
    oracle_input: str = ""
    # baseline or tuned_baseline: whose checkpoint becomes the synthesizer, and writes for the arm
    # unconditional. The paper's is the baseline's.
    synthesizer: str = "baseline"
    synthetic_share: float = 0.5  # of an arm's training tokens; each synthetic document once
    dropouts: str = "0.0,0.1,0.2"  # of tuned arms, chosen by the validation loss
    weight_decays: str = "0.1"


@dataclasses.dataclass(frozen=True)
class EntiGraphConfig:
    """What entigraph.generate asks of a small library; temperature and length as the paper's, whose
    texts have no cap.
    """

    prompts: str = ""  # folder of files that replace those of their names in entigraph/prompts
    chat: bool = True  # a prompt is a user's message
    window: int = 16_000  # tokens of a document in a prompt, or fewer where the context is less
    entity_tokens: int = 4_096  # of an answer that lists a document's entities
    max_entities: int = 100  # of a document, the first
    max_triples: int = 1_000  # of a document, after all its pairs
    samples: int = 1  # times that a document is rephrased, or made questions of
    tokens_per_document: int = 0  # of synthetic text, whatever the method; 0 is what those say
    max_tokens: int = 2_048  # of a text
    temperature: float = 1.0
    top_p: float = 1.0
    keep_unfinished: bool = True  # texts that end at max_tokens
    judged: int = 150  # sentences that entigraph.quality has a judge look at


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """What entigraph.study compares: a model before and after continued pretraining, which the
    sections train and optimizer are about, on the texts of each method.
    """

    methods: str = "raw,extractive,entigraph"  # raw: the library again and again
    shares: str = "1"  # of train.tokens, each a training of its own: "0.25,0.5,1"
    replay: float = 0.1  # share of general text among the tokens
    passes: float = 1.0  # over a method's texts, of which there may be fewer: then more
    passages: int = 2  # before a question, open book
    passage_characters: int = 1024  # of one; the toy world has its own
    # The model of the toy world, where --init_from names none; what is not here is as above.
    pretraining_tokens: int = 400 * 4096
    pretraining_lr: float = 3e-3
    niche: float = 0.25  # share of the toy world's concepts that only the library is about
    texts: int = 3  # of the toy world, about one concept, in a document


@dataclasses.dataclass(frozen=True)
class ResearchConfig:
    """How research_env.search asks a language model for ideas, and for the changes of code that
    carry them out; the numbers of both are those of arXiv 2601.14525.
    """

    models: str = ""  # at api's server, "a,b"; empty is api.model
    ideas: int = 10  # asked for in a call, where they come from the task alone; else it is one
    retries: int = 2  # of a call whose answer holds no idea of use
    samples: int = 10  # changes written at the same time for an idea; the first that applies wins
    revisions: int = 2  # of each that does not apply
    chat: bool = True  # prompts are messages; else texts to be gone on with
    context_tokens: int = 32_768  # of a prompt and its answer; at most the engine's own
    answer_tokens: int = 8_192
    temperature: float = 1.0
    top_p: float = 1.0
    thinking_tokens: int = 0  # budget forcing: so much thinking at most; 0 leaves it to the model
    waits: int = 0  # times that a model which wants to end its thinking is made to go on
    thinking_style: str = "think"  # plain | think | s1: how that model is told where it thinks
    max_similarity: float = 0.6  # of two ideas in words; 1 refuses none but the very same
    prompts: str = ""  # folder of files that replace those of their names in researcher/prompts


@dataclasses.dataclass(frozen=True)
class GrpoConfig:
    """How a policy learns from the rewards of its texts (sbp_jax.grpo); what is not here is
    `train`'s. A step draws texts and learns from all of them, in one update or several.
    """

    problems: str = "addition"  # to learn on: addition, or JSONL with a question and an answer
    held_out: str = "addition"  # by which the policy is judged
    prompt: str = "{question}"  # or a file of it
    answer: str = "(.*)"  # regular expression of a whole text in the asked form; its group counts
    steps: int = 100
    prompts: int = 32  # a step
    group: int = 8  # texts for each prompt, which are compared with each other
    batch_size: int = 256  # texts an update
    passes: int = 1  # over the texts of a step
    max_tokens: int = 16  # of a text
    temperature: float = 1.0
    advantage: str = "std"  # reward less the group's mean, by its deviation; or mean: not divided
    ddof: int = 1  # of the deviation: 1 divides by group - 1
    epsilon: float = 1e-6  # added to it
    loss: str = "clip"  # ratio times advantage, clipped; or ratio; or reinforce: log-probability
    clip: float = 0.2
    length: str = "tokens"  # all tokens weigh the same; or all texts; or constant: 1 / max_tokens
    kl: float = 0.0  # weight of the divergence from the first weights, which are kept in memory
    peak_lr: float = 1e-5  # constant after the warm-up
    warmup: str = "0 steps"
    weight_decay: float = 0.0
    every_steps: int = 10  # the held-out problems, greedily
    evaluated: int = 500  # of them, at most
    kept_texts: int = 8  # of each step, with their rewards, in texts.jsonl


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One file describes a whole experiment; each stage reads its own section."""

    seed: int = 0
    seeds: int = 1  # runs of the whole bootstrap, with this many seeds from `seed` on
    rounds: int = 1  # of synthesis: from the second on, by the model that the last one made
    init_from: str = ""  # whose weights this run begins with: --init_from
    model: ModelConfig = ModelConfig()
    mesh: MeshConfig = MeshConfig()
    data: DataConfig = DataConfig()
    toyworld: ToyWorldConfig = ToyWorldConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig = EvalConfig()
    tuning: TuningConfig = TuningConfig()
    pairing: PairingConfig = PairingConfig()
    synthesis: SynthesisConfig = SynthesisConfig()
    quality: QualityConfig = QualityConfig()
    arms: ArmsConfig = ArmsConfig()
    engine: EngineConfig = EngineConfig()
    api: ApiConfig = ApiConfig()
    entigraph: EntiGraphConfig = EntiGraphConfig()
    study: StudyConfig = StudyConfig()
    research: ResearchConfig = ResearchConfig()
    grpo: GrpoConfig = GrpoConfig()

    @property
    def tokens_per_step(self) -> int:
        return self.train.batch_size * self.data.sequence_length

    @property
    def num_steps(self) -> int:
        return self.train.tokens // self.tokens_per_step


def for_training(e: Experiment) -> Experiment:
    """With the other stages' sections as they are by default: they do not make it another run."""
    default = Experiment()
    return dataclasses.replace(
        e,
        seeds=default.seeds,
        rounds=default.rounds,
        pairing=default.pairing,
        tuning=default.tuning,
        synthesis=default.synthesis,
        quality=default.quality,
        arms=default.arms,
        engine=default.engine,
        api=default.api,
        entigraph=default.entigraph,
        study=default.study,
        research=default.research,
        grpo=default.grpo,
    )


def new_config() -> "ConfigDict":
    """The defaults, ready to be edited by a config file."""
    from ml_collections import ConfigDict

    config = ConfigDict(dataclasses.asdict(Experiment()))
    config.data.mixture.unlock()
    return config


def resolve(config: "ConfigDict") -> Experiment:
    """The experiment that a config describes; `UserError` names what is wrong with it."""
    experiment = _build(Experiment, config.to_dict(), "config")
    validate(experiment)
    return experiment


def from_json(text: str) -> Experiment:
    return _build(Experiment, json.loads(text), "config")


def to_json(experiment: Experiment) -> str:
    return json.dumps(dataclasses.asdict(experiment), indent=2) + "\n"


def differences(recorded: str, new: Experiment) -> list[str]:
    """One line for each field whose value is not the one in a recorded config.json. An older
    version that had not all of the fields did what their defaults say.
    """

    def flatten(value: Any, prefix: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            return {prefix: value}
        return {
            k: v for key, item in value.items() for k, v in flatten(item, f"{prefix}.{key}").items()
        }

    texts = (to_json(Experiment()), recorded, to_json(new))
    default, old, b = (flatten(json.loads(text), "config") for text in texts)
    a = {**default, **old}
    return [f"{k}: {a.get(k)!r} -> {b.get(k)!r}" for k in {**a, **b} if a.get(k) != b.get(k)]


def unknown_field(name: str, path: str = "config", fields: list[str] | None = None) -> str:
    """The message for a misspelt field: names the nearest real one."""
    if fields is None:
        everywhere = dataclasses.asdict(Experiment())
        fields = [
            *everywhere,
            *(f for section in everywhere.values() if isinstance(section, dict) for f in section),
        ]
    near = difflib.get_close_matches(name, fields, n=1, cutoff=0.0)
    return f"{path} has no field {name!r}; did you mean {near[0]!r}?"


def arm_and_words(argument: str, *known: str) -> list[str]:
    """The words after the colon of `--config=FILE:words`, checked against those that the file
    knows.
    """
    words = [word for word in argument.split(",") if word]
    for word in words:
        if word not in known:
            raise UserError(
                f"config argument {word!r} is not known; this file takes: {', '.join(known)}"
            )
    return words


def _build(cls: type, values: Mapping[str, Any], path: str) -> Any:
    """A dataclass of a nested mapping, strict about names and types."""
    hints = get_type_hints(cls)
    unknown = [k for k in values if k not in hints]
    if unknown:
        raise UserError(unknown_field(unknown[0], path, list(hints)))
    built = {}
    for name, value in values.items():
        kind, where = hints[name], f"{path}.{name}"
        if dataclasses.is_dataclass(kind):
            built[name] = _build(kind, value, where)  # type: ignore[arg-type]
        elif name == "mixture":
            built[name] = {k: _build(Source, v, f"{where}.{k}") for k, v in value.items()}
        elif kind is float and isinstance(value, int) and not isinstance(value, bool):
            built[name] = float(value)
        elif not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise UserError(f"{where} is {value!r}; it has to be {kind.__name__}")
        else:
            built[name] = value
    return cls(**built)
