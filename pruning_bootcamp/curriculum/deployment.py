"""Days 13 and 14: files that ship, and what FLOPs saved are worth in time."""

from pruning_bootcamp.curriculum.day import DENSE, EXPORT, PROFILE, Day, Question, Step, about, at_least

_HALF = "results/structured/bn_scale_flops0.5"
_SPARSE = "results/unstructured/global_global_sp0.97"
_WEEK2 = "results/week2_validation.yaml"
_ONNX = "results/course/profile_onnxruntime.yaml"
_ROUND = "results/course/profile_round8.yaml"

DEPLOYMENT = (
    Day(
        number=13,
        topic="export",
        title="Export: the file that ships is the file that is tested",
        learn=(
            "ONNX and TorchScript: what each is for",
            "verification: the exported file is run again and compared, several batch sizes, in a new process",
            "what a file's size says about pruning: dense, int8, sparse",
        ),
        why="The network that was evaluated is a Python object; what ships is a file that another program reads. In "
        "between, a converter replaces every operation. It may bake in the batch size of the example, fold "
        "batch norm in training mode, or pick another padding. None of this raises an error.",
        idea="""
Export traces one forward pass into a graph of standard operations. The check is the definition: on fresh inputs
`x`, in batches of 1, 2 and 7 (a baked-in batch size of 1 or 8 would show),

    max |f_file(x) - f(x)| <= 1e-5 * max(1, max |f(x)|)

Float32 sums in another order differ around 1e-6; a wrong operation differs around 1. For int8 the outputs do
differ: there the question is whether the same class wins. A *sparse* file stores a bit for each weight and the
values that are not zero, about `n / 8 + 4 (1 - s) n` bytes instead of `4 n`, then deflated; when loaded it is an
ordinary dense network.""",
        steps=(
            Step(
                "ONNX and TorchScript of day 10's network, each run again here and in a new process.",
                f"{EXPORT} --checkpoint {_HALF}/pruned_model.pth --format both --verify",
            ),
            Step(
                "8-bit integers, calibrated on training images.",
                f"{EXPORT} --checkpoint {_HALF}/pruned_model.pth --format int8 --verify",
            ),
            Step(
                "Day 6's network with 97% zeros, as a sparse file.",
                f"{EXPORT} --checkpoint {_SPARSE}/pruned_model.pth --format sparse --verify",
            ),
        ),
        see="Every file is verified: the ONNX file within about 5e-6 of the network, TorchScript exactly equal, "
        "int8 in the same class for all 135 validation images. Sizes: half the FLOPs is 0.68 MB as ONNX; int8 "
        "makes it 0.22 MB; the network with 97% zeros is **0.043 MB, 25 times smaller** than its dense weights. "
        "So zeros do pay in storage, far more than channels, and not in time.",
        figures=(
            about("results/structured/bn_scale_flops0.5/metrics.yaml", "params_m", 0.1657, 0.03),
            about("results/unstructured/global_global_sp0.97/metrics.yaml", "sparsity", 0.97, 0.001),
        ),
        questions=(
            Question(
                "Why verify in a new process?",
                "In this process the project's code is loaded: a file that secretly needs it would pass. In "
                "production it is not there. The new process has onnxruntime or torch and nothing of ours.",
            ),
            Question(
                "What does a batch of 7 find that batches of 1 and 2 don't?",
                "A graph that was traced with 2 and has that 2 in a reshape fails at 7. Primes make accidental "
                "divisibility unlikely: 8 could be reshaped to 2 x 4 and go unnoticed.",
            ),
            Question(
                "97% zeros should be 33 times smaller, and the file is 25 times smaller. Where is the rest?",
                "The mask: one bit per weight is 1/32 of a float. Deflated it takes less, as most bits are 0, but not "
                "nothing. Batch norm's numbers and the header are stored whole.",
            ),
        ),
        makes=(
            f"{_HALF}/model.onnx",
            f"{_HALF}/model.pt",
            f"{_HALF}/model_int8.onnx",
            f"{_SPARSE}/model_sparse.safetensors",
        ),
        needs={f"{_HALF}/pruned_model.pth": 10, f"{_SPARSE}/pruned_model.pth": 6},
        seconds=50,
    ),
    Day(
        number=14,
        topic="flops_and_latency",
        title="FLOPs are not latency",
        learn=(
            "how much of 50% fewer FLOPs arrives as time, and where the rest goes",
            "that a network with fewer FLOPs can be *slower*",
            "widths that the runtime likes; and what week 2 must have left behind",
        ),
        why="The course's central experiment. FLOPs are what papers report, time is what users pay. Between the two "
        "lie the memory that must be read whatever is computed, the overhead of each layer, and the blocks of "
        "4, 8 or 16 channels that vector units work in.",
        idea="""
A layer takes about

    time = max(multiply-accumulates / peak rate, bytes moved / bandwidth) + overhead

(the roofline model, Williams et al., 2009, with a constant). Pruning lowers the first term with the square of the
width, the second about linearly, the third not at all. With a batch of one 8x8 image nearly everything is overhead;
with large batches, arithmetic. And a kernel that works on 8 channels at once takes as long for 9 as for 16, or
falls back to another kernel.""",
        steps=(
            Step(
                "Half the FLOPs in torch, one image at a time: layer by layer, interleaved.",
                f"{PROFILE} --baseline {DENSE} --pruned {_HALF}/pruned_model.pth --measure-latency "
                f"--save-results {_WEEK2}",
            ),
            Step(
                "The same pair in ONNX Runtime.",
                f"{PROFILE} --baseline {DENSE} --pruned {_HALF}/pruned_model.pth --backend onnxruntime "
                f"--save-results {_ONNX}",
            ),
            Step(
                "Day 12's widths in multiples of 8, in ONNX Runtime: the same share of FLOPs.",
                f"{PROFILE} --baseline {DENSE} --pruned results/course/bn_scale_flops0.5_round8/pruned_model.pth "
                f"--backend onnxruntime --save-results {_ROUND}",
            ),
            Step("What the second week must have left behind.", "pruning-bootcamp validate week2"),
        ),
        see="In torch, half the FLOPs gave 16% less time, on a busy machine within the noise of day 2. In ONNX "
        "Runtime, ten times quicker to begin with, the same network is **26% slower** than the dense one (0.079 "
        "against 0.063 ms, over 6,000 passes each), and the one with widths in multiples of 8, with as many FLOPs, is "
        "22% *quicker* (0.050 ms). Three times the same 'half the FLOPs'. That was on one thread; on two the last two "
        "were 4% and 9% quicker than the dense network. Your figures will differ with processor and threads, so the "
        "limits below are wide; the order of the last two should not. The checks of week 2 hold.",
        figures=(
            about(_WEEK2, "comparison/flops_reduction_pct", 50.1, 1.0),
            about(_WEEK2, "comparison/latency_reduction_pct", 16.5, 25),
            at_least(_WEEK2, "analysis/discrepancy_points", 5),
            about(_ONNX, "comparison/latency_reduction_pct", -26, 40),
            about(_ROUND, "comparison/latency_reduction_pct", 22.3, 30),
            about(_ROUND, "comparison/flops_reduction_pct", 50.9, 4),
        ),
        questions=(
            Question(
                "How can half the multiply-accumulates take longer?",
                "ONNX Runtime keeps images in blocks of 8 or 16 channels, for which it has fast kernels. With 19 or 53 "
                "channels a layer does not fit the blocks: the runtime reorders the data before and after, or uses a "
                "generic kernel. What is saved in arithmetic is spent there, and on small layers more than that.",
            ),
            Question(
                "Where in the table of layers does the time go that no multiply-accumulate explains?",
                "'(between the layers)': Python, dispatch, the residual additions; and batch norm, which does "
                "hardly any arithmetic per byte. At batch 1 that is half of the pass. Pruning can't touch it; "
                "fusing (ONNX Runtime does) and larger batches can.",
            ),
            Question(
                "Your deployment is torch on CPU at batch 1, the network 30% too slow. What do you try first?",
                "Not pruning. Here changing the runtime is worth a factor of ten, pruning a factor of 1.2. Then "
                "prune for the runtime that you will use, and measure there.",
            ),
        ),
        makes=(_WEEK2, _ONNX, _ROUND),
        needs={
            DENSE: 1,
            f"{_HALF}/pruned_model.pth": 10,
            "results/course/bn_scale_flops0.5_round8/pruned_model.pth": 12,
            f"{_HALF}/model.onnx": 13,
        },
        seconds=85,
    ),
)
