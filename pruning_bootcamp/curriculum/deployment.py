"""Days 13 and 14: files that ship, and what FLOPs saved are worth in time."""

from pruning_bootcamp.curriculum.claims import MEASURED, Place, about, at_most, order
from pruning_bootcamp.curriculum.day import DENSE, EXPORT, PROFILE, Day, Question, Step

_HALF = "results/structured/bn_scale_flops0.5"
_SPARSE = "results/unstructured/global_global_sp0.97"
_EXPORTED = f"{_HALF}/export_metrics.yaml"
_SPARSE_BYTES = "counted: a bit for each of 269,434 weights and four bytes for 3% of them, and batch norm's numbers"
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
        see="Every file is verified: [[meant: the ONNX file within 1e-5 of the network, TorchScript too, int8 by "
        "how often it chooses the same class]]; a file that fails is not left there. [[sparse_size: The "
        "network with 97% zeros takes less than 0.075 MB instead of 1.08]], and [[sparse: day 10's network as "
        "int8, with half the FLOPs, takes 0.05 MB more than that.]] So zeros do pay in storage, and not in "
        "time.",
        claims=(
            order(
                "sparse",
                [Place(_EXPORTED, "formats/int8/size_mb")],
                [Place(f"{_SPARSE}/export_metrics.yaml", "formats/sparse/size_mb")],
                0.05,
                "counted: 3% of the values and a bit for each weight, against a byte for each weight",
            ),
            at_most("sparse_size", f"{_SPARSE}/export_metrics.yaml", "formats/sparse/size_mb", 0.075, _SPARSE_BYTES),
            about(
                "zeros", "results/unstructured/global_global_sp0.97/metrics.yaml", "sparsity", 0.97, 0.001, "counted"
            ),
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
                "[[supposed: 97% zeros should make the file 33 times smaller, and yours is not that small. Where is "
                "the rest?]]",
                "The mask: one bit per weight is 1/32 of a float. [[meant: Deflated it takes less, as most bits are "
                "0, but not nothing.]] Batch norm's numbers and the header are stored whole.",
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
            "[[meant: how much of 50% fewer FLOPs arrives as time, and where the rest goes]]",
            "[[meant: that fewer FLOPs are no promise of less time]]",
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
        see="[[flops, rounded: Three times the same 'half the FLOPs']], and three shares of the time. [[torch: In "
        "torch less is saved than the FLOPs promise]], and [[onnxruntime: in ONNX Runtime too.]] How much, "
        "and what widths in multiples of 8 do to it, is your processor's and your runtime's: no time is "
        "stated here, look at yours. [[supposed: A network that takes *more* time for half the FLOPs is "
        "nothing unheard of; and a saving within the noise of day 2 is none.]] The checks of week 2 hold.",
        claims=(
            about(
                "flops", _WEEK2, "comparison/flops_reduction_pct", 50, 1, "the search stops within 1% of what was asked"
            ),
            order(
                "torch",
                [Place(_WEEK2, "comparison/flops_reduction_pct")],
                [Place(_WEEK2, "comparison/latency_reduction_pct")],
                5,
                MEASURED,
            ),
            order(
                "onnxruntime",
                [Place(_ONNX, "comparison/flops_reduction_pct")],
                [Place(_ONNX, "comparison/latency_reduction_pct")],
                5,
                MEASURED,
            ),
            about("rounded", _ROUND, "comparison/flops_reduction_pct", 50, 5, "a step of 8 channels is a few percent"),
        ),
        questions=(
            Question(
                "[[supposed: How can half the multiply-accumulates take more time?]]",
                "[[meant: ONNX Runtime keeps images in blocks of 8 or 16 channels, for which it has fast kernels. "
                "With 19 or 53 channels a layer does not fit the blocks: the runtime reorders the data before and "
                "after, or uses a generic kernel. What is saved in arithmetic may be spent there, and on small layers "
                "more than that.]]",
            ),
            Question(
                "Where in the table of layers does the time go that no multiply-accumulate explains?",
                "'(between the layers)': Python, dispatch, the residual additions; and batch norm, which does hardly "
                "any arithmetic per byte. Pruning can't touch it; fusing (ONNX Runtime does) and large batches can.",
            ),
            Question(
                "Your deployment is torch on CPU at batch 1, the network 30% too slow. What do you try first?",
                "Not pruning. Look at the table 'What would pay on this machine': another runtime, a batch, a memory "
                "format, and beside each what pruning adds. Then prune for the runtime that you will use, and measure "
                "there.",
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
