"""Days 1 and 2: the dense network, and how it is measured."""

from pruning_bootcamp.curriculum.claims import about, at_least
from pruning_bootcamp.curriculum.day import DENSE, EVAL, PROFILE, TRAIN, Day, Question, Step, metrics_of

_SEED_1 = "course/baseline_seed1"
_EVAL = "results/baseline/eval_metrics.yaml"
_AGAINST_ITSELF = "results/course/against_itself/eval_metrics.yaml"
_SIX_ERRORS = "six standard errors of 449 images (0.47 points each at 99%) below 99.3%"
_NOISE = "results/course/noise_floor.yaml"

BASELINE = (
    Day(
        number=1,
        topic="baseline",
        title="The dense network",
        learn=(
            "what a training run leaves behind, and why each file is there",
            "three splits and what each may decide: train fits, validation chooses, test is read once",
            "how far two trainings differ when nothing but the seed does",
        ),
        why="Every figure of this course is a difference from one dense network: accuracy given up, FLOPs saved. "
        "[[meant: If that network is undertrained, fine-tuning after pruning improves it, and pruning looks "
        "free.]] So it is trained to the end first. And [[advice: before any method is called better, one "
        "must know how much two runs differ by luck]]: that is what the second training, with another seed, "
        "is for.",
        idea="""
SGD with Nesterov momentum, one cycle of the learning rate (Smith & Topin, 2018), weight decay `5e-4`. After each
epoch the validation images are scored, and the best epoch is kept: *the choice* is made on validation, so
validation accuracy is a little too good. The 449 test images are read once, at the end.

With `n` test images an accuracy `p` has a standard error of `sqrt(p (1 - p) / n)`: for 99% of 449 images that is
0.47 points, about two images. One image is 0.22 points. Keep this number in mind for three weeks: **two networks
that differ by less than a point here have not been told apart.**""",
        steps=(
            Step(
                "[[meant: The dense network: 30 epochs, the best one by validation accuracy is kept.]]",
                TRAIN,
                saves="results/baseline",
            ),
            Step(
                "[[advice: The same with another seed: what differs now is luck, and no method may claim less than "
                "that.]]",
                f"{TRAIN} --seed 1 --save-dir results/{_SEED_1}",
            ),
        ),
        see="[[dense, other_seed: Two networks that get 96.5% of the test images right, and by far most often "
        "99%.]] They differ by some images, and [[counted: one image of 449 is 0.22 points.]] [[validation: "
        "Validation is near 100% too]], and [[counted: with 135 images one is 0.74 points: it soon says "
        "nothing more, and can't rank good networks.]] `results/baseline/` holds `best_model.pth`, "
        "`config.yaml` (every setting, resolved: it runs again with `-c`), `log.txt`, `logs/` (curves for "
        "TensorBoard), `report.md`, and `metrics.yaml`, written last: a folder without it is an unfinished "
        "run. Type the command again: it sees that it is done, and does nothing.",
        claims=(
            at_least("dense", metrics_of("baseline"), "accuracy", 96.5, _SIX_ERRORS),
            at_least("other_seed", metrics_of(_SEED_1), "accuracy", 96.5, _SIX_ERRORS),
            at_least("validation", metrics_of("baseline"), "val_accuracy", 97.0, "four of 135 images may be wrong"),
            about("flops", metrics_of("baseline"), "flops_g", 0.002517, 0.00001, "counted from the layers' shapes"),
            about("params", metrics_of("baseline"), "params_m", 0.2694, 0.0001, "counted from the layers' shapes"),
        ),
        questions=(
            Question(
                "Suppose validation accuracy is 100% and test accuracy 99.3%. Is the network overfitted?",
                "It can't be told from this. [[counted: 135 validation images with no error are compatible with a "
                "true error of up to about 2% (the rule of three: 3/135).]] Both figures fit a network that is right "
                "99% of the time. The validation figure is also [[meant: the best of 30 epochs, and a maximum over 30 "
                "looks is biased upwards.]]",
            ),
            Question(
                "Why not choose the epoch on the test split? It has 449 images, and validation 135.",
                "[[meant: The choice would be a little better and the figure would be worthless: it would be a "
                "maximum over 30 looks, and nothing would be left to say what the network does on images that took "
                "part in no decision. Pruning makes this worse, as it offers many more choices (method, sparsity, "
                "epochs) to pick from.]]",
            ),
            Question(
                "A paper prunes a network to 99.2% from a dense 98.8%. What would you ask?",
                "How many extra epochs the pruned network was trained for, and what the dense one gets from the same "
                "extra epochs; how many seeds there were; and on which split the epoch was chosen. Two seeds alone "
                "may differ by as much: look at yours.",
            ),
        ),
        makes=(DENSE, metrics_of("baseline"), metrics_of(_SEED_1)),
        needs={},
        seconds=60,
    ),
    Day(
        number=2,
        topic="measuring",
        title="Measuring: accuracy, FLOPs, parameters, latency",
        learn=(
            "what multiply-accumulates count, and what they leave out",
            "how to time a network: warm-up, medians, two networks in turn",
            "the noise floor: the difference between a network and itself",
        ),
        why="Pruning trades accuracy for cost, so cost needs as much care as accuracy. FLOPs and parameters are "
        "counted: exact, the same everywhere, and not what anybody waits for. Latency is measured: what one "
        "waits for, and noisy. Who does not know the noise of his clock will publish it as a speed-up.",
        idea="""
A convolution with `C_in` and `C_out` channels, kernel `k x k` and output `H x W` costs

    multiply-accumulates = k^2 * C_in * C_out * H * W        parameters = k^2 * C_in * C_out

Both fall with the *product* of the channels, which week 2 lives on. Only multiply-accumulates depend on the size of
the image: the early layers of a ResNet have few parameters and many FLOPs. Pruning papers print
multiply-accumulates in 10^9 as "FLOPs"; so does `flops_g` here. One multiply-accumulate is two floating point
operations: check which a paper means before comparing.

Latency: let it run warm first, then many passes, then the **median** (another program that takes the processor for
a moment ruins a mean, not a median). Two networks are timed in turn, A B A B, so that a slow minute falls on both.""",
        steps=(
            Step(
                "Accuracy, FLOPs by two counters, parameters, latency.",
                f"{EVAL} --checkpoint {DENSE} --measure-latency",
            ),
            Step(
                "The same against itself by figures: every reduction must be 0.",
                f"{EVAL} --checkpoint {DENSE} --baseline-metrics results/baseline/metrics.yaml "
                "--save-dir results/course/against_itself",
            ),
            Step(
                "The dense network timed against itself, in turn: whatever differs is the noise of this machine.",
                f"{PROFILE} --baseline {DENSE} --pruned {DENSE} --save-results {_NOISE}",
            ),
        ),
        see="[[same_flops, same_twice: FLOPs and parameters fall by exactly 0%.]] The latency of the network "
        "against itself falls or rises all the same. [[meant: The interval beside it is of the median of the paired "
        "ratios (A against B in the same round), made to hold the true one in 95 of 100 such runs; where it holds 0, "
        "the profile says that the difference may be noise. Its wider end is your noise floor: a saving within it is "
        "none.]] (No figure of it is stated: it is your machine's.) In `eval`, compare mean and median: "
        "where they are far apart, other programs use this machine too. [[same_accuracy: Accuracy is the "
        "same, but for an image that rounding may flip.]] Two FLOPs counters are shown where they differ; "
        "thop counts batch norm's arithmetic, ours does not.",
        claims=(
            about("flops", _EVAL, "flops_g", 0.002517, 0.00001, "counted from the layers' shapes"),
            about("same_flops", _AGAINST_ITSELF, "flops_reduction_pct", 0, 0, "the same network"),
            about(
                "same_accuracy", _AGAINST_ITSELF, "accuracy_drop", 0, 0.25, "the same weights: at most one image flips"
            ),
            about("same_twice", _NOISE, "comparison/flops_reduction_pct", 0, 0, "the same network"),
        ),
        questions=(
            Question(
                "Why the median, when the mean uses all the measurements?",
                "[[meant: The noise has one sign: nothing makes a pass faster than the machine allows, and many "
                "things make it slower. Such outliers pull the mean and leave the median.]] The minimum would be "
                "stable too, but it describes a moment that users never get.",
            ),
            Question(
                "[[supposed: You time network A for a minute, then network B for a minute, and B is 5% faster.]] What "
                "may have happened?",
                "Anything that changed between the two minutes: the processor's clock rose or fell with its "
                "temperature, another program ended, memory was laid out differently. In turn, A B A B, such "
                "changes hit both alike.",
            ),
            Question(
                "[[supposed: Which of ResNet-20's stages holds most parameters, and which most multiply-accumulates?]]",
                "[[counted: The third (64 channels) holds about three quarters of the parameters. But each stage "
                "halves the image's sides as it doubles the channels: a quarter of the positions times four times the "
                "products per position. So the three stages cost about the same multiply-accumulates.]] [[meant: A "
                "method that removes weights wherever they are least missed, and finds that in the third stage, saves "
                "fewer FLOPs than its parameters suggest.]]",
            ),
        ),
        makes=(_EVAL, "results/course/against_itself/eval_metrics.yaml", _NOISE),
        needs={DENSE: 1},
        seconds=60,
    ),
)
