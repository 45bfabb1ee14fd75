"""Days 11 and 12: what must be cut together, and the proof that it was."""

from pruning_bootcamp.curriculum.claims import MEASURED, Place, about, at_least, at_most, order
from pruning_bootcamp.curriculum.day import CUT, DENSE, EVAL, Day, Question, Step, metrics_of

_RAW = "course/l1_sp0.5_untrained"
_ROUND = "course/bn_scale_flops0.5_round8"

DEPENDENCIES = (
    Day(
        number=11,
        topic="dependency_graph",
        title="The dependency graph: what lives and dies together",
        learn=(
            "groups: channels of several layers that are one channel",
            "[[meant: why residual additions make the widest groups]]",
            "to look before cutting: `--dry-run`, and how to leave layers out",
        ),
        why="Cut channel 5 from a convolution, and its batch norm has one entry too many, the next convolution "
        "one input too many, and the addition two lines below adds 15 channels to 16: an error there, far "
        "from the cut. [[meant: By hand this is the most common bug of structured pruning.]] A dependency "
        "graph finds what must go together.",
        idea="""
Fang et al. (2023, DepGraph): trace one forward pass and ask, for each pair of neighbours, whether cutting the
output of the one forces a cut of the other's input, and whether a layer ties its own input to its output (batch
norm and ReLU do, a convolution does not). The groups are the connected parts of that relation.

In a ResNet the streams decide. `x + f(x)` adds channel by channel, so all convolutions that write to one stream
share their output channels: in stage 1 of ResNet-20 the first convolution and the second one of each block, in one
group. The first convolution of each block is read by the second only: a small group of its own, the easy place to
cut.

A channel of a group is scored by all its members together, and cut in all or in none.""",
        steps=(
            Step(
                "Half of the channels by L1: the groups, what would go of each, what can't be cut. Nothing is written.",
                f"{CUT} --method l1 --sparsity 0.5 --dry-run",
            ),
            Step(
                "The first stage left out: everything tied to it stays too.",
                f"{CUT} --method l1 --sparsity 0.5 --dry-run structured.exclude=[layer1.*]",
            ),
            Step(
                "The cut itself, without training, for tomorrow's proof.",
                f"{CUT} --method l1 --sparsity 0.5 --no-fine-tune --save-dir results/{_RAW}",
                may_miss=True,
            ),
        ),
        see="[[counted: Twelve groups. `conv1` stands for 13 layers: the whole stream of stage 1, with its batch "
        "norms and readers; the group of a block's inner convolution has 3.]] `linear` is not cut: its "
        "channels are the classes. With stage 1 excluded `conv1` stays too: it writes the stream that they "
        "share. [[flops: The raw cut saves 60% of the FLOPs or more]], and [[untrained: costs ten points or "
        "more]]: the network is not broken, only untrained.",
        claims=(
            at_least("flops", metrics_of(_RAW), "flops_reduction_pct", 60, MEASURED),
            order(
                "untrained",
                [Place(metrics_of("baseline"), "accuracy")],
                [Place(metrics_of(_RAW), "accuracy")],
                10,
                MEASURED,
            ),
            about("whole", metrics_of(_RAW), "widths/layer3.1.conv1/0", 64, 0, "the dense width: counted"),
        ),
        questions=(
            Question(
                "Why do the streams of stages 1 and 2 form different groups, although one follows the other?",
                "Between them stands a block that changes the width, 16 to 32. Its convolution reads the one and "
                "writes the other, and a convolution does not tie its inputs to its outputs. Here the shortcut of "
                "that block is option A (a strided slice, padded with zero channels), which would tie them: it is "
                "rewritten as a fixed 1x1 convolution with the same function first.",
            ),
            Question(
                "[[supposed: Which groups would you expect to be the most sensitive, and why are they tempting?]]",
                "[[meant: The streams: every block of the stage reads and writes them, so one channel less is missed "
                "everywhere. They are tempting because one channel of a stream saves in a dozen layers at once.]]",
            ),
            Question(
                "[[supposed: Does a network with depthwise convolutions have larger or smaller groups?]]",
                "[[meant: Larger: a depthwise convolution has one filter per input channel, so it ties its output to "
                "its input like batch norm does. The group runs through it to the pointwise convolutions on both "
                "sides.]]",
            ),
        ),
        makes=(f"results/{_RAW}/pruned_model.pth",),
        needs={DENSE: 1},
        seconds=30,
    ),
    Day(
        number=12,
        topic="slice_proof",
        title="Shapes that fit, and the slice proof",
        learn=(
            "that fitting shapes prove nothing: a wrong cut can run",
            "the proof: the cut network against the dense one with those channels zeroed",
            "widths in multiples of 8, and what they cost the budget",
        ),
        why="After a cut, people run a dummy input and look at the output's shape. That finds crashes. It does "
        "not find the cut that removed channel 5 from the writer and channel 6 from the reader: shapes fit, "
        "the network runs, and the missing accuracy is put down to 'pruning', then trained away. The only way "
        "to know is to compare with a network that must compute the same.",
        idea="""
Let `f_cut` be the sliced network and `f_zero` the dense one in which those channels are set to zero wherever they
are written, and stay so behind batch norm and activation. If and only if the right slices were removed,

    f_cut(x) = f_zero(x)    for every x, up to rounding

The proof runs both in float64 on random inputs and asks that the largest difference, relative to the largest
output, is below 1e-9. Float64 so that a real error can't hide as rounding: a wrong channel shows as a difference of
order 1, rounding as 1e-16. Every `prune-structured` does this before it trains; if it fails, nothing is written and
the command exits 3.""",
        steps=(
            Step(
                "Yesterday's cut from its file alone: it carries its own widths.",
                f"{EVAL} --checkpoint results/{_RAW}/pruned_model.pth",
            ),
            Step(
                "Half the FLOPs in widths that are multiples of 8; the slice proof is printed before fine-tuning.",
                f"{CUT} --method bn_scale --target-flops-reduction 0.5 --round-to 8 --save-dir results/{_ROUND}",
                may_miss=True,
            ),
        ),
        see="[[proof, rounded_proof: 'Slice proof: passed', with a difference near 1e-16]]: the two networks are "
        "the same but for the rounding of float64. The pruned file opens without the code that cut it. "
        "[[steps: Rounded to multiples of 8, widths move in steps: the saving lands within a few points of "
        "50%]], and [[rounded: the network comes back to 95% or more.]] Day 14 shows what the multiples buy.",
        claims=(
            at_most(
                "proof",
                metrics_of(_RAW),
                "slice_proof/max_difference",
                1e-9,
                "the proof's own limit; rounding is 1e-16",
            ),
            at_most("rounded_proof", metrics_of(_ROUND), "slice_proof/max_difference", 1e-9, "as `proof`"),
            about("steps", metrics_of(_ROUND), "flops_reduction_pct", 50, 5, "a step of 8 channels is a few percent"),
            at_least("rounded", metrics_of(_ROUND), "accuracy", 95, MEASURED),
        ),
        questions=(
            Question(
                "Why must the channels be zeroed *behind* batch norm and not in the filter?",
                "A filter of zeros gives output 0, and batch norm makes of it `shift - scale * mean / std`, a constant "
                "that is not zero. The next layer sees a constant where the cut network has nothing: they differ, and "
                "rightly so.",
            ),
            Question(
                "The proof uses random inputs. Could it pass by luck?",
                "For a wrong cut the two are different functions almost everywhere: equality on a set of random "
                "inputs in float64, to 9 digits, has probability zero for practical purposes. What could fool it is a "
                "channel that is dead for every one of these inputs. Then nothing was cut that mattered to them.",
            ),
            Question(
                "Fine-tuning brings a wrongly cut network back to nearly the same accuracy. So why bother?",
                "Because what you then have is a network trained from a damaged start with a score that was never "
                "applied. The comparison of scores, the sensitivity scan, the next cut: all rest on something that "
                "did not happen. And without time to fine-tune the damage stays.",
            ),
        ),
        makes=(f"results/{_RAW}/eval_metrics.yaml", f"results/{_ROUND}/pruned_model.pth"),
        needs={DENSE: 1, f"results/{_RAW}/pruned_model.pth": 11},
        seconds=30,
    ),
)
