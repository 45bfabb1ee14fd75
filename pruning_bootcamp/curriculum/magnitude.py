"""Days 3 and 4: weights zeroed by size, layer by layer and over the whole network."""

from pruning_bootcamp.curriculum.claims import MEASURED, about, above, at_most
from pruning_bootcamp.curriculum.day import DENSE, WEIGHTS, Day, Question, Step, metrics_of

_LAYERWISE = "unstructured/l1_layerwise_sp0.5"
_GLOBAL = "unstructured/global_global_sp0.5"
_LAYERWISE_80 = "course/layerwise_sp0.8_untrained"
_GLOBAL_80 = "course/global_sp0.8_untrained"
_TWO_POINTS = "nine of 449 images; the standard error of a difference is about three"
_RANDOM_50 = "course/random_sp0.5_untrained"

MAGNITUDE = (
    Day(
        number=3,
        topic="layerwise",
        title="L1 magnitude, layer by layer",
        learn=(
            "[[meant: pruning by size: the simplest score, and still the one to beat]]",
            "masks: why zeros must be held at zero while the rest trains",
            "what pruning costs before fine-tuning, and what fine-tuning gives back",
        ),
        why="A trained network has many small weights. Setting a small one to zero changes the output little. "
        "That argument is not exact (a small weight on a large input matters), but it costs nothing to "
        "compute and [[paper: holds well enough that two decades of cleverer scores are compared with it "
        "(Blalock et al., 2020).]]",
        idea="""
Han et al. (2015): train, remove, retrain. In each layer `l` the `s * n_l` weights with the least `|w|` are set to
zero:

    keep_l = the (1 - s) n_l largest |w| of layer l         w <- w * keep_l

Then fine-tune at a tenth of the learning rate or so, multiplying by the mask after every step: gradient and
momentum would otherwise move the zeros. The number is counted, not found by a threshold: with ties a threshold prunes
too many.

**Sparsity** is the share of zeros among the weights that can be pruned (convolutions and linear layers). The
network is still stored and computed densely: FLOPs stay as they are.""",
        steps=(
            Step(
                "[[meant: Half of every layer's weights to zero, smallest first, then 15 epochs with the zeros held.]]",
                f"{WEIGHTS} --method l1 --mode layerwise --sparsity 0.5",
                saves=f"results/{_LAYERWISE}",
            ),
            Step(
                "80% of every layer, and no fine-tuning: the raw damage.",
                f"{WEIGHTS} --method l1 --mode layerwise --sparsity 0.8 --no-fine-tune --save-dir "
                f"results/{_LAYERWISE_80}",
                may_miss=True,
            ),
            Step(
                "Half of all weights drawn at random, no fine-tuning: the floor under every score.",
                f"{WEIGHTS} --method random --mode global --sparsity 0.5 --no-fine-tune --save-dir "
                f"results/{_RANDOM_50}",
                may_miss=True,
            ),
        ),
        see="[[half: Half of the weights gone by size, then fine-tuned, cost two points at most, and by far most "
        "often none that 449 images can show.]] [[damage: 80% without fine-tuning costs many points more.]] "
        "[[at_random: Half of the weights gone *at random*, without fine-tuning, ruin the network]]: weights "
        "are not all alike, and size tells them apart (day 4 leaves only 20% of them, by size). [[no_flops: "
        "FLOPs reduction is 0.0% throughout]], and the command says so.",
        claims=(
            at_most("half", metrics_of(_LAYERWISE), "accuracy_drop", 2.0, _TWO_POINTS),
            about("zeros", metrics_of(_LAYERWISE), "sparsity", 0.5, 0.001, "counted, layer by layer"),
            about(
                "no_flops", metrics_of(_LAYERWISE), "flops_reduction_pct", 0, 0, "zeros are computed like any number"
            ),
            above("damage", metrics_of(_LAYERWISE), metrics_of(_LAYERWISE_80), "accuracy", 3, MEASURED),
            above("at_random", metrics_of(_LAYERWISE), metrics_of(_RANDOM_50), "accuracy", 20, MEASURED),
        ),
        questions=(
            Question(
                "Why is a mask needed? The weights are zero, and zero times the input gives no gradient, doesn't it?",
                "The gradient of a weight is its *input* times the gradient of the output: it does not contain the "
                "weight, so a zero weight has a gradient like any other. Without the mask it comes back in the "
                "first step. Try it in the notebook.",
            ),
            Question(
                "[[supposed: Why may every layer not lose the same share? Name one layer of ResNet-20 that you would "
                "spare.]]",
                "Layers differ in size and in how much depends on them. The first convolution has 144 weights here, "
                "and all that the network sees passes through it; the 3x3 convolutions of the last stage have "
                "36,864 each. The same 80% leaves the first with 29 weights for 16 filters.",
            ),
            Question(
                "[[supposed: The network has half the weights. Why is it neither smaller in memory nor faster?]]",
                "The zeros are stored like any number, and the kernels multiply by them. [[meant: A smaller file "
                "needs a sparse format (day 13: `--format sparse`), a faster network a kernel that skips zeros, or "
                "zeros in a pattern that the hardware knows (days 17 and 18), or whole channels removed (week 2).]]",
            ),
        ),
        makes=(f"results/{_LAYERWISE}/pruned_model.pth", metrics_of(_LAYERWISE_80), metrics_of(_RANDOM_50)),
        needs={DENSE: 1},
        seconds=60,
    ),
    Day(
        number=4,
        topic="global",
        title="Global magnitude: one ranking for all layers",
        learn=(
            "layerwise against global: how the same number of zeros is spread",
            "how much the spreading alone is worth, before any training",
            "when a global ranking goes wrong",
        ),
        why="Layerwise pruning decides in advance that every layer is equally redundant. [[meant: A global "
        "ranking lets the weights decide: all are sorted together, and the smallest go, wherever they are.]] "
        "Layers with many small weights become very sparse, small layers with large weights stay nearly "
        "whole.",
        idea="""
    keep = the (1 - s) n largest |w| of all n weights of the network

Nothing else changes. Layer `l` ends with whatever sparsity `s_l` comes out, and the total is exact. This compares
weights of different layers by size, which is fair only if sizes are comparable: batch norm after each convolution
makes a layer's scale arbitrary (double all its weights and nothing changes). In networks trained with weight decay
throughout the scales happen to be comparable. LAMP (Lee et al., 2021) rescales each weight by its layer so that
they are.""",
        steps=(
            Step(
                "One ranking over the whole network, half of the weights, then fine-tuning.",
                f"{WEIGHTS} --method global --mode global --sparsity 0.5",
                saves=f"results/{_GLOBAL}",
            ),
            Step(
                "80% by one ranking, no fine-tuning: compare with day 3's layerwise 80%.",
                f"{WEIGHTS} --method global --mode global --sparsity 0.8 --no-fine-tune --save-dir "
                f"results/{_GLOBAL_80}",
                may_miss=True,
            ),
        ),
        see="[[spread: At 80% without any training the global ranking keeps points that layerwise lost]]: the "
        "same score, the same number of zeros, only spread differently. [[by_size: And 80% gone by size leave "
        "a better network than 50% gone at random.]] [[half: At 50% with fine-tuning]] this one and day 3's "
        "end near the dense network, and nothing can be concluded from that comparison. **An easy task hides "
        "differences**; to see them, prune further or leave the training out.",
        claims=(
            at_most("half", metrics_of(_GLOBAL), "accuracy_drop", 1.5, "the course's goal"),
            about("zeros", metrics_of(_GLOBAL), "sparsity", 0.5, 0.001, "counted"),
            above("spread", metrics_of(_GLOBAL_80), metrics_of(_LAYERWISE_80), "accuracy", 3, MEASURED),
            above("by_size", metrics_of(_GLOBAL_80), metrics_of(_RANDOM_50), "accuracy", 10, MEASURED),
        ),
        questions=(
            Question(
                "Multiply all weights of one convolution by 10 and divide the batch norm's input scale accordingly: "
                "the network computes the same. What does global magnitude do now?",
                "[[meant: It keeps all of that layer and prunes the others more, although nothing changed.]] The "
                "score is not invariant under a change that leaves the function alone. Layerwise magnitude and LAMP "
                "are.",
            ),
            Question(
                "Can a global ranking empty a layer?",
                "Yes. Nothing forbids it, and at very high sparsity it happens: then everything behind the layer sees "
                "a constant. In a ResNet the shortcut carries on, in a VGG the network is dead. Watch the layer table "
                "(`print_layerwise_sparsity`), or bound what may go from a layer.",
            ),
            Question(
                "Suppose both methods end at the dense accuracy at 50%. Somebody concludes that the allocation does "
                "not matter. What is wrong?",
                "Absence of a difference at a setting where nothing *can* differ. Both are at the ceiling of the "
                "task. [[spread: At 80% untrained there is a gap.]] Compare where the curve bends.",
            ),
        ),
        makes=(f"results/{_GLOBAL}/pruned_model.pth", metrics_of(_GLOBAL_80)),
        needs={DENSE: 1},
        seconds=45,
    ),
)
