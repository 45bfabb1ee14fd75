"""Days 17 and 18: zeros in a pattern that hardware knows."""

from pruning_bootcamp.curriculum.day import DENSE, EXPORT, PROFILE, WEIGHTS, Day, Question, Step, about, metrics_of

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
        why="Zeros anywhere save nothing because a processor can't skip what it must first look at. A fixed pattern "
        "can be wired: of every four neighbouring weights at most two are not zero, so two values and two 2-bit "
        "positions are stored, and the unit fetches two inputs of four. NVIDIA's tensor cores since Ampere do "
        "this for 2:4. (The first course text said 2:4 has 2 *zeros* of 4; N is the number **kept**. For 2:4 it "
        "is the same, for 1:4 it is not.)",
        idea="""
Along the input dimension of each row, in blocks of M neighbours, keep the N largest:

    2:4    [ 0.9  -0.1   0.3  -0.7 ]  ->  [ 0.9   0    0   -0.7 ]        sparsity = 1 - N / M

(Mishra et al., 2021.) Of four weights free pruning may take any number, N:M takes exactly two: a block with four
large weights loses two of them, a block with four small ones keeps two. How much worse that is depends on M: the
freedom is `M choose N` patterns a block, 6 for 2:4, 70 for 4:8.

The input dimension must be divisible by M: the first convolution of this network has one input channel, so 2:4
can't fit it. It is skipped, and the command says so.""",
        steps=(
            Step("2:4 everywhere it fits, fine-tuned.", f"{WEIGHTS} --method l1 --pattern 2:4"),
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
        see="With fine-tuning 2:4 costs nothing that can be measured here. Untrained it was a point *above* the free "
        "choice of 50% on one thread, and an image below on two: no difference that one run could tell. Nor is it a "
        "fair one: 2:4 skips the first convolution, which does not fit, and the layerwise 50% cuts it. Sparsity is "
        "49.97% for the same reason. The sparse file is 0.47 MB, 2.3 times smaller than dense float32.",
        figures=(
            about(metrics_of(_24), "accuracy", 99.55, 1.1),
            about(metrics_of(_24), "sparsity", 0.49973, 0.0001),
            about(metrics_of(_24_RAW), "accuracy", 99.33, 1.6),
            about(metrics_of(_50_RAW), "accuracy", 98.22, 2.5),
        ),
        questions=(
            Question(
                "The comparison of 2:4 with free 50% is unfair. How would you mend it?",
                "Exclude the first convolution in both with `prune.exclude=[conv1*]` (a pattern is held against the "
                "whole name; the plain word `conv1` would take every inner `conv1` too), so that the same weights are "
                "up for choice. Then the free choice can't lose by more than luck, as it includes every 2:4 mask.",
            ),
            Question(
                "Why along the input dimension and not along the outputs?",
                "The sums of a matrix product run over the inputs. The unit skips a product by fetching only the "
                "inputs whose weight is kept, and M neighbours of one row share the fetch. Zeros along the outputs "
                "would have other rows read other inputs, and nothing could be skipped together.",
            ),
            Question(
                "Does 4:8 include 2:4?",
                "Yes: two adjacent blocks with two kept each are one block of eight with four kept. So the best 4:8 "
                "mask keeps at least as much magnitude as the best 2:4 mask. Hardware knows 2:4.",
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
        why="A speed-up on one kind of GPU, for large matrices, in half precision, gets quoted without all three. "
        "And at 2:4 an easy task shows no loss, so nothing was learnt about the pattern's price. Go to 1:4, "
        "without training, where it shows.",
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
        see="On this CPU 2:4 is worth nothing in time: dense kernels multiply by its zeros. (No GPU with sparse "
        "tensor cores was at hand; none is claimed.) At 1:4 without training about 15 points are gone; 75% freely "
        "chosen loses nearly as much. SparseGPT is six points ahead of plain 1:4 on validation (eight images of 135), "
        "on one thread as on two; on the test split that was one point on one thread (85.7 against 84.6) and eleven "
        "on two (93.1 against 82.4).",
        figures=(
            about(_PROFILE, "comparison/latency_reduction_pct", 0.4, 15),
            about(_PROFILE, "comparison/flops_reduction_pct", 0, 0),
            about(metrics_of(_14_RAW), "accuracy", 84.63, 14),
            about(metrics_of(_75_RAW), "accuracy", 85.75, 13),
            about(metrics_of(_14_GPT), "accuracy", 85.75, 13),
        ),
        questions=(
            Question(
                "A GPU doubles the rate of 2:4 products, which take 60% of your network's time. What speed-up do "
                "you promise?",
                "At most 1 / (0.4 + 0.3) = 1.43, and I promise nothing before measuring: small matrices don't fill the "
                "sparse units, and converting the format costs too.",
            ),
            Question(
                "On the test split SparseGPT was one point better on one thread, and eleven on two. Which is the "
                "truth?",
                "Neither by itself. The dense networks differ in nothing but the order in which sums were formed, and "
                "an untrained network at this sparsity carries that on to ten points: more than the standard error of "
                "449 images at this accuracy (1.7 points) would explain. Both runs agree on the sign, and both are "
                "reported; how much SparseGPT gains takes several seeds.",
            ),
            Question(
                "SparseGPT was made for language models. Why may it gain less on a network with batch norm?",
                "It fits each layer's output on calibration inputs; then batch norm, re-estimated in all three "
                "runs, absorbs much of the same error. Transformers have no batch norm to do that for nothing. The "
                "README has SparseGPT's successors on CIFAR-10, where they gain a lot.",
            ),
        ),
        makes=(_PROFILE, metrics_of(_14_RAW), metrics_of(_75_RAW), metrics_of(_14_GPT)),
        needs={DENSE: 1, f"results/{_24}/pruned_model.pth": 17},
        seconds=60,
    ),
)
