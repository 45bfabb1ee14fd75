"""Days 8 to 10: whole channels, by their filters' size, by batch norm, and what that saves."""

from pruning_bootcamp.curriculum.claims import MEASURED, about, above, at_least, at_most
from pruning_bootcamp.curriculum.day import CUT, DENSE, DISTILLED, EVAL, TRAIN, Day, Question, Step, metrics_of

_L1 = "structured/l1_sp0.4"
_RANDOM = "structured/random_sp0.4"
_BN = "structured/bn_scale_sp0.5"
_BN_RAW = "course/bn_scale_sp0.5_untrained"
_SLIM = "course/slimming"
_SLIM_RAW = "course/slimming_sp0.5_untrained"
_SLIM_CUT = "course/slimming_sp0.5"
_HALF = "structured/bn_scale_flops0.5"
_PARAMS = "structured/bn_scale_params0.5"

CHANNELS = (
    Day(
        number=8,
        topic="l1_channels",
        title="Channels by the size of their filters",
        learn=(
            "[[meant: structured pruning: remove whole filters, get a smaller dense network]]",
            "the L1 score of a channel",
            "why every comparison needs a random row",
        ),
        why="Week 1 ended with a network full of zeros that was as slow as before. A zero channel is different: "
        "it can be cut out, with the filter that writes it and the slices of the filters that read it. "
        "[[meant: What remains is an ordinary network with less to compute on any hardware]]; what that is "
        "worth in time day 14 measures. The price is coarseness: 144 weights go together, good and bad.",
        idea="""
Li et al. (2017, section 3.1): a filter with small weights gives small outputs, so rank filters by

    score(j) = sum over |W[j, :, :, :]|         and remove the lowest

`--sparsity 0.4` takes 40% of all channels, ranked over the whole network. Channels that a residual addition ties
together are one channel: they live and die together (day 11).

Random channels are the control. Liu et al. (2019) and Mittal et al. (2018) found that after enough fine-tuning
random channels do nearly as well: then what one pays for is the *architecture* that is left, and the training.""",
        steps=(
            Step(
                "40% of the channels, by L1; proven, fine-tuned, judged.",
                f"{CUT} --method l1 --sparsity 0.4",
                True,
                saves=f"results/{_L1}",
            ),
            Step(
                "40% of the channels at random, everything else the same.",
                f"{CUT} --method random --sparsity 0.4",
                may_miss=True,
                saves=f"results/{_RANDOM}",
            ),
        ),
        see="[[l1, random: Two networks that get 95% or more right.]] Which of them comes first is not stated: "
        "one run of each can't separate them, and on some machines random does. What one can say is that "
        "fine-tuning brings back nearly everything, whichever channels went. [[l1_flops, random_flops: Note "
        "that 40% of the channels took half of the FLOPs or more]]: see day 10. (Either command may miss its "
        "limit of 1.5 points by an image: exit 3.)",
        claims=(
            at_least("l1", metrics_of(_L1), "accuracy", 95, MEASURED),
            at_least("random", metrics_of(_RANDOM), "accuracy", 95, MEASURED),
            at_least("l1_flops", metrics_of(_L1), "flops_reduction_pct", 50, MEASURED),
            at_least("random_flops", metrics_of(_RANDOM), "flops_reduction_pct", 50, MEASURED),
        ),
        questions=(
            Question(
                "Why does removing a channel from a layer also shrink the next layer?",
                "The next layer's filters have one slice per input channel. The slice that read the removed channel "
                "has nothing to read. So the cut of one channel costs two layers weights, and the batch norm in "
                "between two numbers of each kind.",
            ),
            Question(
                "[[supposed: Suppose random ends within two images of L1, or ahead. Is L1 worthless?]]",
                "Not shown. [[supposed: A score that keeps more before fine-tuning would matter where there is no "
                "time or no data to train.]] After long fine-tuning on an easy task the choice hardly shows. What is "
                "shown is weak and important: [[advice: a paper without a random row has not shown that its score "
                "matters.]]",
            ),
            Question(
                "A filter with small weights is followed by batch norm with a large scale. Is it unimportant?",
                "No: batch norm divides by the standard deviation of its input, so the size of the filter cancels. "
                "Only batch norm's scale tells how strong the channel is afterwards. That is tomorrow's score.",
            ),
        ),
        makes=(f"results/{_L1}/pruned_model.pth", f"results/{_RANDOM}/pruned_model.pth"),
        needs={DENSE: 1},
        seconds=45,
    ),
    Day(
        number=9,
        topic="bn_scale",
        title="Channels by batch norm's scale: Network Slimming",
        learn=(
            "batch norm's scale as a score, and when it means something",
            "training that makes channels ready to be cut",
            "to tell what a method does before fine-tuning from what is left of it after",
        ),
        why="Batch norm multiplies each channel by a learned scale. If it is zero, the channel is constant and can "
        "go at no cost. Ordinary training has no reason to make scales small. Network Slimming gives it one: a "
        "penalty on their absolute values while training, so that the channels that are not needed fade out by "
        "themselves.",
        idea="""
Liu et al. (2017, section 3):

    loss = cross_entropy + lambda * sum over |gamma|         score(j) = |gamma_j|

The L1 penalty pulls every scale towards zero by the same amount in each step; those that the loss needs resist.
Then one ranking over all scales. Where several batch norms see a channel (a residual stream), their mean is taken.
`train.bn_l1` is `lambda`.""",
        steps=(
            Step(
                "50% of the channels by batch norm's scale, of the network trained as usual; no fine-tuning.",
                f"{CUT} --method bn_scale --sparsity 0.5 --no-fine-tune --save-dir results/{_BN_RAW}",
                may_miss=True,
            ),
            Step(
                "The same with fine-tuning: the course's own command.",
                f"{CUT} --method bn_scale --sparsity 0.5",
                True,
                saves=f"results/{_BN}",
            ),
            Step("Train with the penalty.", f"{TRAIN} train.bn_l1=0.001 --save-dir results/{_SLIM}"),
            Step(
                "Cut that network, without fine-tuning...",
                f"{CUT} --method bn_scale --sparsity 0.5 --no-fine-tune --checkpoint results/{_SLIM}/best_model.pth "
                f"--save-dir results/{_SLIM_RAW}",
                may_miss=True,
            ),
            Step(
                "... and with it.",
                f"{CUT} --method bn_scale --sparsity 0.5 --checkpoint results/{_SLIM}/best_model.pth "
                f"--save-dir results/{_SLIM_CUT}",
                may_miss=True,
            ),
        ),
        see="[[recovers: Cut raw, both are ruined, and fine-tuning brings both back]] [[ordinary, slimmed: to 93% "
        "or more.]] [[paper: The method promises that the network trained with the penalty keeps more of its "
        "answers when it is cut raw.]] Look whether yours does: in runs that differed in nothing but the "
        "number of threads it came out both ways, so this page can't show that the penalty helps: that takes "
        "seeds. [[cut: Half of the channels is more than the goal asks, 60% of the FLOPs or more against "
        "40%]], and the 1.5 points that it allows may not be enough (**exit 3**). Tomorrow asks for the FLOPs "
        "instead.",
        claims=(
            at_least("cut", metrics_of(_BN), "flops_reduction_pct", 60, MEASURED),
            above(
                "recovers",
                (metrics_of(_BN), metrics_of(_SLIM_CUT)),
                (metrics_of(_BN_RAW), metrics_of(_SLIM_RAW)),
                "accuracy",
                20,
                MEASURED,
            ),
            at_least("ordinary", metrics_of(_BN), "accuracy", 94, MEASURED),
            at_least("slimmed", metrics_of(_SLIM_CUT), "accuracy", 93, MEASURED),
        ),
        questions=(
            Question(
                "Why L1 on the scales and not L2?",
                "L2 pulls in proportion to the size, so small scales are hardly pulled at all and none reaches "
                "zero. L1 pulls all alike down to zero: some arrive, and the distribution splits into two groups. "
                "Weight decay on batch norm's scales, which ordinary training has, is L2.",
            ),
            Question(
                "[[supposed: Suppose that on one thread the network trained with the penalty is 25 points better "
                "before fine-tuning, and on two 11 points worse. Which figure would you report?]]",
                "Both, and how many runs there were. The figure after fine-tuning matters if you fine-tune, the first "
                "where you can't; two runs that disagree say that neither is known yet. Reporting only the run that "
                "fits the paper would be true and misleading.",
            ),
            Question(
                "Batch norm has a shift too. A channel with scale 0.001 and shift 2: what happens when it is cut?",
                "Its output is almost the constant relu(2) = 2, not 0. Cutting it removes a constant from the next "
                "layer's input, which moves that layer's mean. Re-estimating batch norm's statistics, which every "
                "command here does after a cut, absorbs this where a batch norm follows (all but the image's border, "
                "where padding puts zeros beside the constant).",
            ),
        ),
        makes=(
            f"results/{_SLIM}/best_model.pth",
            metrics_of(_BN_RAW),
            metrics_of(_BN),
            metrics_of(_SLIM_RAW),
            metrics_of(_SLIM_CUT),
        ),
        needs={DENSE: 1},
        seconds=95,
    ),
    Day(
        number=10,
        topic="real_flops",
        title="Ask for FLOPs, not for a ratio",
        learn=(
            "why a share of the channels is not a share of the FLOPs",
            "budgets: the cut that saves half the multiply-accumulates, or half the parameters",
            "zeros against channels at the same accuracy",
        ),
        why="Nobody needs 'sparsity 0.5'. One needs a network that costs half. The share of channels is a poor "
        "handle on that: compare the 40% of them and what they took of the FLOPs on day 8; another network, "
        "or another score, would give another figure. So state the outcome and let the tool find the ratio.",
        idea="""
If every layer keeps a share `k` of its channels, a layer between two such layers keeps `k^2` of its products:

    FLOPs left ~ k^2:    k = 0.6 -> 0.36 (64% fewer)    k = 0.5 -> 0.25 (75% fewer)    half the FLOPs: k = 0.71

The first and last layer have one side only (image channels and classes stay), so it is never quite the square. A
ranking over the whole network takes unequal shares: there the budget is met by searching for the number of channels
whose cut, *counted after the cut*, comes within 1% of what was asked.""",
        steps=(
            Step(
                "Half the multiply-accumulates, by batch norm's scale; then 30 epochs, on the dense outputs too.",
                f"{CUT} --method bn_scale --target-flops-reduction 0.5 {DISTILLED}",
                saves=f"results/{_HALF}",
            ),
            Step(
                "Half the parameters: another network.",
                f"{CUT} --method bn_scale --target-params-reduction 0.5 {DISTILLED}",
                may_miss=True,
                saves=f"results/{_PARAMS}",
            ),
            Step(
                "Week 1's network with half its weights zero, measured the same way: what does it save?",
                f"{EVAL} --checkpoint results/unstructured/global_global_sp0.5/pruned_model.pth "
                "--baseline-metrics results/baseline/metrics.yaml",
                may_miss=True,
            ),
        ),
        see="[[flops: Asked for 50% fewer FLOPs, the cut saves 50%, within a point]], and [[goal: loses two "
        "points at most]]: the course's goal allows 1.5. [[params: Asked for 50% fewer parameters it saves "
        "that]], with another share of the FLOPs: another cut, [[params_accuracy: that gets 95% or more "
        "right.]] [[zeros: The network with half its weights zero saves 0.0% of either.]]",
        claims=(
            about(
                "flops", metrics_of(_HALF), "flops_reduction_pct", 50, 1, "the search stops within 1% of what was asked"
            ),
            about(
                "params",
                metrics_of(_PARAMS),
                "params_reduction_pct",
                50,
                1,
                "the search stops within 1% of what was asked",
            ),
            at_most("goal", metrics_of(_HALF), "accuracy_drop", 2.0, MEASURED),
            at_least("params_accuracy", metrics_of(_PARAMS), "accuracy", 95, MEASURED),
            about(
                "zeros",
                "results/unstructured/global_global_sp0.5/eval_metrics.yaml",
                "flops_reduction_pct",
                0,
                0,
                "zeros are computed like any number",
            ),
        ),
        questions=(
            Question(
                "[[supposed: A paper reports '50% channel pruning at no loss', another '50% FLOPs reduction at no "
                "loss'. Which cut more?]]",
                "[[supposed: The first, if its 50% is of every layer: 75% fewer FLOPs. Only the second says what was "
                "saved. If the first counted channels that hardly cost anything, not even that is known.]]",
            ),
            Question(
                "Why does the same FLOPs budget lead different scores to different parameter counts?",
                "They cut in different places. [[counted: A channel of the first stage costs four times the FLOPs of "
                "one of the third, which works on a sixteenth of the positions with four times the weights; and it "
                "holds a quarter of the parameters.]] Day 20 cuts half the FLOPs by other scores: compare "
                "`params_reduction_pct`.",
            ),
            Question(
                "[[supposed: When are zeros better than cut channels, then?]]",
                "When storage counts and speed does not (a sparse file, day 13), [[meant: when the hardware knows the "
                "pattern (2:4, day 17)]], or when accuracy at very few weights is all: compare day 6, where 3% of the "
                "weights were left, with day 9, where half of the channels were.",
            ),
        ),
        makes=(
            f"results/{_HALF}/pruned_model.pth",
            f"results/{_PARAMS}/pruned_model.pth",
            "results/unstructured/global_global_sp0.5/eval_metrics.yaml",
        ),
        needs={DENSE: 1, "results/unstructured/global_global_sp0.5/pruned_model.pth": 4},
        seconds=55,
    ),
)
