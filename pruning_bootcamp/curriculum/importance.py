"""Days 15 and 16: scores that look at the data, and whether a score tells the truth."""

from pruning_bootcamp.curriculum.claims import MEASURED, Place, about, above, at_least, at_most, order
from pruning_bootcamp.curriculum.day import DENSE, WEIGHTS, Day, Question, Step, metrics_of

_TAYLOR = "unstructured/taylor_layerwise_sp0.5"
_MOVEMENT = "unstructured/movement_layerwise_sp0.5"
_TAYLOR_80 = "course/taylor_sp0.8_untrained"
_MOVEMENT_80 = "course/movement_sp0.8_untrained"
_GLOBAL_80 = "course/global_sp0.8_untrained"
_IMPACT = "results/course/importance/metrics.yaml"

IMPORTANCE = (
    Day(
        number=15,
        topic="taylor_and_movement",
        title="Scores with gradients: Taylor and movement",
        learn=(
            "Taylor: how much the loss would move if the weight went",
            "movement: whether training drives a weight away from zero",
            "what both assume, and what a converged network does to them",
        ),
        why="Size ignores the data. A small weight may sit where the loss is steep, a large one where nothing "
        "depends on it. Gradients know about the loss. [[paper: So they should rank better: an argument that "
        "is in most papers.]] Test it.",
        idea="""
Taylor (Molchanov et al., 2019): the first-order change of the loss when `w` becomes 0 is `-g w`, so

    score = mean over batches of |g w|

Movement (Sanh et al., 2020): while fine-tuning, a weight that the loss pushes away from zero is worth keeping,

    score = - sum over steps of g w

which may be negative. It was made for fine-tuning a pretrained model to a new task, where weights do move. Here it
is measured with the weights held still, at the end of training.

First order is good near the point where it is taken. Removing a weight is not a small step, and at a minimum of the
loss the first order vanishes: on average over the training set `g` is 0 there. What is left is noise and curvature.""",
        steps=(
            Step(
                "Half of each layer by |g w|, fine-tuned.",
                f"{WEIGHTS} --method taylor --sparsity 0.5",
                saves=f"results/{_TAYLOR}",
            ),
            Step(
                "Half of each layer by movement, fine-tuned.",
                f"{WEIGHTS} --method movement --sparsity 0.5",
                may_miss=True,
                saves=f"results/{_MOVEMENT}",
            ),
            Step(
                "80% over the whole network by Taylor, no fine-tuning: day 4 did it by size.",
                f"{WEIGHTS} --method taylor --mode global --sparsity 0.8 --no-fine-tune --save-dir "
                f"results/{_TAYLOR_80}",
                may_miss=True,
            ),
            Step(
                "The same by movement.",
                f"{WEIGHTS} --method movement --mode global --sparsity 0.8 --no-fine-tune "
                f"--save-dir results/{_MOVEMENT_80}",
                may_miss=True,
            ),
        ),
        see="At 80% without training, [[advice: compare Taylor with size (day 4): which keeps more is not stated, "
        "some images of 449 apart are luck.]] [[ruined: Movement ruins the network, where both of these keep "
        "most of it.]] [[taylor: With fine-tuning Taylor is back within two points of the dense network]]; "
        "[[movement: movement comes back to 92% or more]], and may miss its limit (exit 3). The network is "
        "right on nearly all of its training images: gradients there are tiny and say little. Movement is "
        "used outside what it was made for, and the result says so.",
        claims=(
            at_most("taylor", metrics_of(_TAYLOR), "accuracy_drop", 2.0, MEASURED),
            at_least("movement", metrics_of(_MOVEMENT), "accuracy", 92, MEASURED),
            above(
                "ruined",
                (metrics_of(_TAYLOR_80), metrics_of(_GLOBAL_80)),
                metrics_of(_MOVEMENT_80),
                "accuracy",
                15,
                MEASURED,
            ),
        ),
        questions=(
            Question(
                "Why |g w| batch by batch, and not |mean g| times |w|?",
                "[[meant: At a minimum the mean gradient is zero for every weight, important or not: signs cancel. "
                "The size within batches does not cancel and still tells where the loss is sensitive (it estimates "
                "the Fisher information). SNIP uses the mean, and is meant for *before* training, where it is not "
                "zero.]]",
            ),
            Question(
                "[[supposed: Under which circumstances should movement win?]]",
                "When weights really move: a pretrained model fine-tuned to another task, at high sparsity, with "
                "the score summed over the whole fine-tuning. There size tells what mattered for the old task.",
            ),
            Question(
                "[[supposed: Suppose Taylor kept six images fewer than size. Would you conclude that it is worse?]]",
                "No. One network, one seed, one sparsity, six images of 449 apart. [[advice: If an expected advantage "
                "does not show, that is a reason to measure on yours, which day 16 does in a way that has more "
                "data.]]",
            ),
        ),
        makes=tuple(metrics_of(folder) for folder in (_TAYLOR, _MOVEMENT, _TAYLOR_80, _MOVEMENT_80)),
        needs={DENSE: 1, metrics_of(_GLOBAL_80): 4},
        seconds=65,
    ),
    Day(
        number=16,
        topic="importance_and_impact",
        title="Does a score tell the truth?",
        learn=(
            "actual impact: remove one filter, measure the loss, put it back",
            "rank correlation as a test of a score, over the network and within layers",
            "how a sum over weights can carry nothing but the layer's size",
        ),
        why="A score predicts what removal costs. A prediction can be tested without any pruning run: take filters "
        "one at a time, zero each, see how the loss rises, and compare the order with the score's. It is cheap, "
        "it has as many data points as one likes, and it separates the score from allocation and from "
        "fine-tuning.",
        idea="""
For a filter `f`: `impact(f) = loss(f zeroed) - loss(dense)`, on the training images. For a score: the sum over the
filter's weights. Spearman's correlation compares the two orders:

    rho = correlation of the ranks,   1: same order,   0: no relation,   -1: reversed

Once over all filters, which is what a global ranking needs, and once within each layer, averaged, which is what
layerwise pruning needs. Four filters of each of 19 convolutions are drawn: within a layer that is four points, so
the average over layers has a standard error of about 0.13. (Molchanov et al., 2019, section 4, make such a test
with all filters.)""",
        steps=(
            Step(
                "76 filters removed one at a time; seven scores against what really happened.",
                "python benchmarks/importance_impact.py -c cfgs/digits.yaml --filters 4",
                saves="results/course/importance",
            ),
        ),
        see="[[data: Over all filters Taylor and OBD, which look at the data, rank better than magnitude, and "
        "than random]], and **[[size: random ranks them backwards.]]** Random is not supposed to know "
        "anything, and [[nothing: within layers it doesn't: about 0.]] Over the network it knows one thing: "
        "[[counted: a sum over 576 weights is larger than a sum over 144]], and [[size: filters of wide "
        "layers matter *less* here.]] Magnitude, a sum too, can have the same fault. Within layers [[counted: "
        "four filters a layer say little]]: no order of scores is stated there.",
        claims=(
            order(
                "data",
                [Place(_IMPACT, "scores/taylor/spearman"), Place(_IMPACT, "scores/obd/spearman")],
                [Place(_IMPACT, "scores/random/spearman"), Place(_IMPACT, "scores/magnitude/spearman")],
                0.3,
                MEASURED,
            ),
            at_most("size", _IMPACT, "scores/random/spearman", -0.1, MEASURED),
            about("nothing", _IMPACT, "scores/random/spearman_within_layers", 0, 0.4, "three standard errors of 0.13"),
            at_least("filters", _IMPACT, "filters", 76, "counted: four of each of 19 convolutions"),
        ),
        questions=(
            Question(
                "How would you repair the sum for a global ranking?",
                "Divide by the number of weights (the mean), or by the layer's norm, or by its mean score, so that "
                "layers become comparable. Each is a choice about layers, not about filters. [[meant: What no repair "
                "of size can do is tell which layer matters: that takes data (Taylor's sum is a change of the loss, "
                "in the same units everywhere).]]",
            ),
            Question(
                "A score with a correlation of 0.5: is that good?",
                "[[meant: Good enough to be far better than random, whose expectation is 0 once size is out of it; "
                "bad enough that among the filters it calls least important there are some that matter. The top of "
                "the order matters little; the bottom is what gets cut. A better test of a score for pruning 50% is "
                "the impact of the half that it would cut.]]",
            ),
            Question(
                "Filters were removed one at a time. Why may the order be wrong for removing half of them?",
                "[[meant: Redundancy: two filters that do the same each have no impact alone, and together a large "
                "one. The score can't see pairs, nor can this test. That is what second-order methods (`obs`, cross "
                "terms) and pruning in rounds are for.]]",
            ),
        ),
        makes=(_IMPACT,),
        needs={DENSE: 1},
        seconds=20,
    ),
)
