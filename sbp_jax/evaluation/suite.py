"""The suite `sbp`: the table of the paper on Synthetic Bootstrapped Pretraining (arXiv 2509.15248).

Tasks are lm-eval's own. Where the paper does not say which number it shows, this is our choice:
accuracy is `acc`, not normalised by length (as in its figures ARC-Easy is far above ARC-Challenge);
perplexities are for a token on OpenWebText2, for the last word on LAMBADA, and for the letter of
the right answer on MMLU, among all tokens.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Benchmark:
    name: str  # in the table
    task: str  # lm-eval's name of it, and that of its rows in --tasks_dir
    metric: str
    shots: int = 0
    average: bool = False  # part of the table's last row
    columns: tuple[str, ...] = ()  # that rows need
    text: str = ""  # template: what a corpus would hold if it knew the question


_ARC = ("question", "choices", "answerKey")
_SCIQ = ("support", "question", "distractor1", "distractor2", "distractor3", "correct_answer")
SBP = (
    Benchmark("OpenWebText2", "openwebtext2", "token_perplexity", 0, False, ("text",), "{{text}}"),
    Benchmark("LAMBADA", "lambada_openai", "perplexity", 0, False, ("text",), "{{text}}"),
    Benchmark(
        "MMLU",
        "mmlu",
        "answer_perplexity",
        5,
        False,
        ("question", "choices", "answer", "subject"),
        "{{question}}",
    ),
    Benchmark("ARC-Challenge", "arc_challenge", "acc", 0, True, _ARC, "{{question}}"),
    Benchmark("ARC-Easy", "arc_easy", "acc", 0, True, _ARC, "{{question}}"),
    Benchmark("SciQ", "sciq", "acc", 0, True, _SCIQ, "{{support}} {{question}}"),
    Benchmark(
        "Winogrande",
        "winogrande",
        "acc",
        0,
        True,
        ("sentence", "option1", "option2", "answer"),
        "{{sentence}}",
    ),
    Benchmark(
        "TriviaQA", "triviaqa", "exact_match", 1, True, ("question", "answer"), "{{question}}"
    ),
    Benchmark("WebQS", "webqs", "exact_match", 1, True, ("question", "answers"), "{{question}}"),
)
BY_TASK = {benchmark.task: benchmark for benchmark in SBP}

# lm-eval's own task of it wants the whole Pile, which is no longer to be had; this is its part.
OPENWEBTEXT2 = {
    "task": "openwebtext2",
    "dataset_path": "ArmelR/the-pile-splitted",
    "dataset_name": "OpenWebText2",
    "output_type": "loglikelihood_rolling",
    "test_split": "test",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [
        {"metric": "word_perplexity"},
        {"metric": "byte_perplexity"},
        {"metric": "bits_per_byte"},
    ],
    "metadata": {"version": 1.0},
}

# Its figures: the baseline's, then what SBP and the oracle add to it.
PAPER = {
    "200b_3b": {
        "OpenWebText2": (5.74, -0.53, -1.02),
        "LAMBADA": (6.87, -0.85, -1.86),
        "MMLU": (3.83, -0.36, -0.51),
        "ARC-Challenge": (35.32, 1.28, 2.82),
        "ARC-Easy": (68.94, 2.65, 4.29),
        "SciQ": (90.50, 1.00, 2.40),
        "Winogrande": (60.14, 1.90, 5.53),
        "TriviaQA": (22.51, 3.36, 7.37),
        "WebQS": (8.56, 3.74, 10.83),
        "Average QA": (47.66, 2.32, 5.54),
    },
    "1t_3b": {
        "OpenWebText2": (4.51, -0.02, -0.12),
        "LAMBADA": (4.33, -0.03, -0.22),
        "MMLU": (3.17, -0.06, -0.05),
        "ARC-Challenge": (42.66, 1.62, 3.84),
        "ARC-Easy": (75.63, 0.42, 2.11),
        "SciQ": (93.20, 0.80, 0.50),
        "Winogrande": (65.19, 1.42, 2.92),
        "TriviaQA": (36.07, 0.25, 0.59),
        "WebQS": (19.34, 0.54, 0.44),
        "Average QA": (55.35, 0.84, 1.73),
    },
    "1t_6b": {
        "OpenWebText2": (4.25, -0.06, -0.21),
        "LAMBADA": (3.63, -0.06, -0.25),
        "MMLU": (3.08, -0.08, -0.13),
        "ARC-Challenge": (47.44, 0.77, 0.17),
        "ARC-Easy": (78.70, 0.51, 0.85),
        "SciQ": (92.90, 1.90, 1.80),
        "Winogrande": (70.17, 0.47, 2.36),
        "TriviaQA": (40.64, 0.49, 3.19),
        "WebQS": (19.88, 3.79, 5.22),
        "Average QA": (58.29, 1.32, 2.26),
    },
}
