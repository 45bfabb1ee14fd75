"""Days 17 and 18: zeros in a pattern that hardware knows."""

from pruning_bootcamp.curriculum.claims import MEASURED, about, above, at_least, at_most
from pruning_bootcamp.curriculum.day import DENSE, EXPORT, PROFILE, WEIGHTS, Day, Question, Step, metrics_of

_24 = "unstructured/l1_layerwise_2of4"
_24_RAW = "course/2of4_untrained"
_50_RAW = "course/layerwise_sp0.5_untrained"
_14_RAW = "course/1of4_untrained"
_75_RAW = "course/layerwise_sp0.75_untrained"
_14_GPT = "course/1of4_sparsegpt_untrained"
_PROFILE = "results/course/profile_2of4.yaml"

SEMI_STRUCTURED = (
    Day(
        number=17,
        topic="n_of_m",
        title="N:M sparsity: two of every four",
        learn=(
            "N:M: N weights kept of every M neighbours, and why hardware likes it",
            "what the pattern costs against free zeros of the same number",
            "which layers it does not fit",
        ),
        why="Zeros anywhere save nothing because a processor can't skip what it must first look at. [[meant: A "
        "fixed pattern can be wired: of every four neighbouring weights at most two are not zero, so two "
        "values and two 2-bit positions are stored, and the unit fetches two inputs of four.]] NVIDIA's "
        "tensor cores since Ampere do this for 2:4. (The first course text said 2:4 has 2 *zeros* of 4; N is "
        "the number **kept**. For 2:4 it is the same, for 1:4 it is not.)",
        idea="""
Along the input dimension of each row, in blocks of M neighbours, keep the N largest:

    2:4    [ 0.9  -0.1   0.3  -0.7 ]  ->  [ 0.9   0    0   -0.7 ]        sparsity = 1 - N / M

(Mishra et al., 2021.) Of four weights free pruning may take any number, N:M takes exactly two: a block with four
large weights loses two of them, a block with four small ones keeps two. How much worse that is depends on M: the
freedom is `M choose N` patterns a block, 6 for 2:4, 70 for 4:8.

The input dimension must be divisible by M: the first convolution of this network has one input channel, so 2:4
can't fit it. It is skipped, and the command says so.""",
        steps=(
            Step("2:4 everywhere it fits, fine-tuned.", f"{WEIGHTS} --method l1 --pattern 2:4", saves=f"results/{_24}"),
            Step(
                "2:4 without fine-tuning...",
                f"{WEIGHTS} --method l1 --pattern 2:4 --no-fine-tune --save-dir results/{_24_RAW}",
                may_miss=True,
            ),
            Step(
                "... against 50% of each layer, freely chosen, without fine-tuning.",
                f"{WEIGHTS} --method l1 --mode layerwise --sparsity 0.5 --no-fine-tune --save-dir results/{_50_RAW}",
                may_miss=True,
            ),
            Step(
                "The 2:4 network as a sparse file.",
                f"{EXPORT} --checkpoint results/{_24}/pruned_model.pth --format sparse",
            ),
        ),
        see="[[two_of_four: With fine-tuning 2:4 costs 1.5 points at most.]] [[raw: Untrained it keeps 94% or "
        "more.]] [[advice: Whether that is more than the free choice of 50% keeps is not stated: no "
        "difference that one run could tell.]] Nor would it be a fair one: 2:4 skips the first convolution, "
        "which does not fit, and the layerwise 50% cuts it. [[zeros: Sparsity is 49.97% for the same "
        "reason.]] The sparse file takes [[counted: a bit for each weight and four bytes for each that is "
        "kept, about half of dense float32 before it is deflated.]]",
        claims=(
            at_most("two_of_four", metrics_of(_24), "accuracy_drop", 1.5, MEASURED),
            about("zeros", metrics_of(_24), "sparsity", 0.49973, 0.0001, "counted: half of all but the first layer"),
            at_least("raw", metrics_of(_24_RAW), "accuracy", 94, MEASURED),
        ),
        questions=(
            Question(
                "The comparison of 2:4 with free 50% is unfair. How would you mend it?",
                "Exclude the first convolution in both with `prune.exclude=[conv1*]` (a pattern is held against the "
                "whole name; the plain word `conv1` would take every inner `conv1` too), so that the same weights are "
                "up for choice. [[meant: Then the free choice keeps at least as much magnitude, as it includes every "
                "2:4 mask; in accuracy it may still lose by luck.]]",
            ),
            Question(
                "Why along the input dimension and not along the outputs?",
                "The sums of a matrix product run over the inputs. The unit skips a product by fetching only the "
                "inputs whose weight is kept, and M neighbours of one row share the fetch. Zeros along the outputs "
                "would have other rows read other inputs, and nothing could be skipped together.",
            ),
            Question(
                "Does 4:8 include 2:4?",
                "Yes: two adjacent blocks with two kept each are one block of eight with four kept. [[meant: So the "
                "best 4:8 mask keeps at least as much magnitude as the best 2:4 mask.]] Hardware knows 2:4.",
            ),
        ),
        makes=(
            f"results/{_24}/pruned_model.pth",
            f"results/{_24}/model_sparse.safetensors",
            metrics_of(_24_RAW),
            metrics_of(_50_RAW),
        ),
        needs={DENSE: 1},
        seconds=45,
    ),
    Day(
        number=18,
        topic="n_of_m_in_practice",
        title="N:M in practice: does it pay, and how far does it go",
        learn=(
            "a pattern speeds up only what has a kernel for it: measure here",
            "1:4, where the pattern begins to hurt",
            "SparseGPT: letting the kept weights make up for the others",
        ),
        why="[[advice: A speed-up on one kind of GPU, for large matrices, in half precision, gets quoted without "
        "all three.]] And at 2:4 an easy task shows little loss, so little was learnt about the pattern's "
        "price. Go to 1:4, without training, where it shows.",
        idea="""
What hardware promises for 2:4 is twice the matrix throughput; what arrives depends on the share of time in such
products (Amdahl's law): with a share `p`, the whole becomes `1 / (1 - p + p / 2)` times faster: 1.33 for `p = 0.5`.

SparseGPT (Frantar & Alistarh, 2023): go through the columns of a layer's matrix; when a weight is set to zero,
change the weights of the columns still to come so that the layer's *output* on real inputs changes least,

    w_rest <- w_rest - (w_j / [H^-1]_jj) * H^-1[j, rest]        H = X X^T + damping

with `X` the layer's inputs on calibration images (no labels). The mask is chosen block by block on the updated
weights.""",
        steps=(
            Step(
                "The 2:4 network against the dense one, timed in turn on this machine.",
                f"{PROFILE} --baseline {DENSE} --pruned results/{_24}/pruned_model.pth --save-results {_PROFILE}",
            ),
            Step(
                "1:4, no fine-tuning.",
                f"{WEIGHTS} --method l1 --pattern 1:4 --no-fine-tune --save-dir results/{_14_RAW}",
                may_miss=True,
            ),
            Step(
                "75% of each layer freely chosen, no fine-tuning.",
                f"{WEIGHTS} --method l1 --mode layerwise --sparsity 0.75 --no-fine-tune --save-dir results/{_75_RAW}",
                may_miss=True,
            ),
            Step(
                "1:4 by SparseGPT: the kept weights make up for the others.",
                f"{WEIGHTS} --method l1 --pattern 1:4 --solver sparsegpt --no-fine-tune --save-dir results/{_14_GPT}",
                may_miss=True,
            ),
        ),
        see="[[no_flops: 2:4 saves no FLOPs]], and [[meant: dense kernels multiply by its zeros]]: compare the "
        "two times with the noise of day 2. (No GPU with sparse tensor cores was at hand; none is claimed.) "
        "[[one_of_four: At 1:4 without training points are gone that 2:4 kept]]; [[free: 75% freely chosen "
        "loses some too.]] [[advice: Whether SparseGPT keeps more than plain 1:4 is not stated]]: it came out "
        "both ways in runs that differed in threads and processor alone. [[sparsegpt: It is not ruined]], and "
        "what it is worth takes several seeds to tell.",
        claims=(
            about("no_flops", _PROFILE, "comparison/flops_reduction_pct", 0, 0, "zeros are computed like any number"),
            above("one_of_four", metrics_of(_24_RAW), metrics_of(_14_RAW), "accuracy", 2, MEASURED),
            above("free", metrics_of(_24_RAW), metrics_of(_75_RAW), "accuracy", 2, MEASURED),
            at_least("sparsegpt", metrics_of(_14_GPT), "accuracy", 50, MEASURED),
        ),
        questions=(
            Question(
                "A GPU doubles the rate of 2:4 products, which take 60% of your network's time. What speed-up do "
                "you promise?",
                "[[counted: At most 1 / (0.4 + 0.3) = 1.43]], and I promise nothing before measuring: small matrices "
                "don't fill the sparse units, and converting the format costs too.",
            ),
            Question(
                "[[supposed: Suppose that on the test split SparseGPT is one point better on one thread, and eleven "
                "on two. Which is the truth?]]",
                "[[supposed: Neither by itself. The dense networks differ in nothing but the order in which sums were "
                "formed, and an untrained network at this sparsity carries that on to ten points: more than the "
                "standard error of 449 images at this accuracy (1.7 points) would explain.]] Report both; what "
                "SparseGPT is worth takes several seeds to tell.",
            ),
            Question(
                "[[supposed: SparseGPT was made for language models. Why may it gain less on a network with batch "
                "norm?]]",
                "[[meant: It fits each layer's output on calibration inputs; then batch norm, re-estimated in all "
                "three runs, absorbs much of the same error. Transformers have no batch norm to do that for "
                "nothing.]]",
            ),
        ),
        makes=(_PROFILE, metrics_of(_14_RAW), metrics_of(_75_RAW), metrics_of(_14_GPT)),
        needs={DENSE: 1, f"results/{_24}/pruned_model.pth": 17},
        seconds=60,
    ),
)
