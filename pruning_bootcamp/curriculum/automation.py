"""Days 19 to 21: a search, the report, what failed."""

from pruning_bootcamp.curriculum.claims import MEASURED, about, above, at_least
from pruning_bootcamp.curriculum.day import CUT, DENSE, DISTILLED, WEIGHTS, Day, Question, Step, metrics_of

_SWEEP = "results/sweep/digits"
_99 = "unstructured/global_global_sp0.99"
_99_ITERATIVE = "unstructured/global_global_sp0.99_x5"
_97 = "unstructured/global_global_sp0.97"
_90 = "structured/bn_scale_flops0.9"
_COMPARISON = "results/final_comparison.csv"

AUTOMATION = (
    Day(
        number=19,
        topic="sweep",
        title="A sweep, and its Pareto front",
        learn=(
            "grid, random and guided search, and what each costs",
            "[[meant: the Pareto front: when there is no best network]]",
            "how a search overfits the split that it looks at",
        ),
        why="So far one thing was changed at a time, by hand. [[supposed: Method, budget, learning rate and "
        "epochs interact: more FLOPs cut may want more epochs.]] A search tries combinations, keeps every "
        "trial, and shows what was bought at which price.",
        idea="""
A trial `a` *dominates* `b` if it is at least as good in every objective and better in one. The **Pareto front** is
what nothing dominates: for each cost, the best accuracy found. Choosing on the front is a decision about what
accuracy is worth, which no search can make. The hypervolume, the area that the front dominates, says in one number
how far it got.

A grid tries all; it wastes trials where one setting matters and the others don't. Random search (Bergstra & Bengio,
2012) tries as many values of each setting as it has trials. Guided ones (TPE, NSGA-II) use the trials before.

Accuracy in a sweep is **validation** accuracy: the best of 24 is a maximum over 24 looks.""",
        steps=(
            Step(
                "All combinations of the sweep's config, two at a time; killed, it goes on.",
                "pruning-bootcamp sweep -c cfgs/sweep/digits.yaml --sampler grid --trials 24 --workers 2 "
                f"--save-dir {_SWEEP}",
            ),
            Step("The trials and the front.", f"pruning-bootcamp sweep show --save-dir {_SWEEP}"),
        ),
        see="24 trials, each run to its end (three epochs are too few to stop one early), and a front of several: "
        "[[meant: from the least accuracy at the fewest FLOPs to the most accuracy at the most.]] "
        "[[hypervolume: The front dominates three quarters of the area or more.]] The config has no "
        "favourite: scores are batch norm's scale and *random*. Count how many of the front random holds: "
        "with another dense network it is another number, so none is stated. [[dense: The dense network of "
        "the sweep gets 97% or more right]], of its validation images. [[meant: With 3 epochs of fine-tuning "
        "a good place of random can't be laid to long training; batch norm's scale means little in a network "
        "trained without the penalty of day 9.]]",
        claims=(
            at_least("hypervolume", f"{_SWEEP}/sweep.yaml", "hypervolume", 0.75, MEASURED),
            at_least("dense", f"{_SWEEP}/sweep.yaml", "dense/accuracy", 97, MEASURED),
        ),
        questions=(
            Question(
                "The sweep ran on 404 validation images, not 135. Why was that changed?",
                "[[counted: 24 trials are ranked, and with 135 images one image is 0.74 points: the front would be "
                "drawn by luck. 404 come out of the training images (`data.val_fraction=0.3`)]], so the dense network "
                "here is another one, trained on other images, and its figures are not to be mixed with those of the "
                "other days.",
            ),
            Question(
                "[[supposed: A trial has lower accuracy and higher FLOPs than another. Can you delete it?]]",
                "[[meant: From the front it is gone already; from the records no. It says which region does not pay, "
                "and it is needed to know how many were tried, without which the best can't be judged.]]",
            ),
            Question(
                "You can afford 24 trials, and have 6 settings. Grid, random or guided?",
                "Not a grid: two values of each would be 64. Random tries 24 values of each. Guided search needs some "
                "trials to learn from, ten or so, and pays when a trial is dear.",
            ),
        ),
        makes=(f"{_SWEEP}/sweep.yaml", f"{_SWEEP}/trials.csv"),
        needs={DENSE: 1},
        seconds=120,
    ),
    Day(
        number=20,
        topic="comparison_and_report",
        title="The comparison, ablations and the report",
        learn=(
            "[[meant: one table of everything, including what lost]]",
            "an ablation: change one thing, keep the budget",
            "the random row again, at the course's own goal",
        ),
        why="Three weeks of runs are in `results/`. [[advice: A report that shows the best three is an "
        "advertisement.]] The table of all, with the goal they were judged by, lets a reader see what "
        "mattered. One ablation is missing for it: on day 10 batch norm's scale was asked for half the FLOPs. "
        "Was it the score that kept the accuracy?",
        idea="""
An **ablation** takes one part away and leaves the rest, at the same cost and with the same training. Here: the same
half of the FLOPs, the same 30 epochs, other scores; one of them random. If random does as well, the score was not
what met the goal.

What a report needs: the dense network, what was done, the figures with the number of images and seeds, the machine,
what failed, and what one would do next.""",
        steps=(
            Step(
                "Half the FLOPs by L1.",
                f"{CUT} --method l1 --target-flops-reduction 0.5 {DISTILLED}",
                may_miss=True,
                saves="results/structured/l1_flops0.5",
            ),
            Step(
                "Half the FLOPs at random.",
                f"{CUT} --method random --target-flops-reduction 0.5 {DISTILLED}",
                may_miss=True,
                saves="results/structured/random_flops0.5",
            ),
            Step("Every pruning run in one table.", "pruning-bootcamp curriculum compare"),
            Step("The written report.", "pruning-bootcamp report --results results --format md"),
        ),
        see="[[random, l1, bn_scale: At half the FLOPs, batch norm's scale (day 10), L1 and random channels all "
        "get 95.5% or more right.]] Which comes first is not stated: it is an image or five of 449, and "
        "changes with the number of threads. [[flops: The budget is the same for all.]] So on this network "
        "and task the accuracy is kept by the budget, the proof and the fine-tuning. A claim 'batch norm's "
        "scale meets the goal' may be true, and 'because of the score' is not supported. [[advice: The report "
        "says 'run more seeds' at nearly every comparison, and it is right.]]",
        claims=(
            at_least("random", metrics_of("structured/random_flops0.5"), "accuracy", 95.5, MEASURED),
            at_least("l1", metrics_of("structured/l1_flops0.5"), "accuracy", 95.5, MEASURED),
            at_least("bn_scale", metrics_of("structured/bn_scale_flops0.5"), "accuracy", 95.5, MEASURED),
            about(
                "flops",
                metrics_of("structured/random_flops0.5"),
                "flops_reduction_pct",
                50,
                1,
                "the search stops within 1% of what was asked",
            ),
        ),
        questions=(
            Question(
                "How would you find out whether the scores differ at all?",
                "[[advice: More seeds (5 of each, the same seeds for all), a task or a cut that is harder, where the "
                "curve bends, and less fine-tuning. Then the mean difference with its standard error.]] On CIFAR-10 "
                "[[counted: `DATASET=cifar10` gives 10,000 test images: a standard error of 0.25 points at 93%, "
                "instead of 0.47 here at 99%.]]",
            ),
            Question(
                "Why is it fair that all got 30 epochs, though one method may want 60?",
                "It is fair at that cost, and says nothing about others. If the cost of training does not matter to "
                "you, give each what it needs and report that too. What is never fair is different costs without "
                "saying so.",
            ),
            Question(
                "Your table has 30 rows judged on the same 449 test images. Is the test split still unread?",
                "Each run read it once, but you now look at 30 figures. [[meant: If you pick the best row, you have "
                "chosen on test.]] Pick by validation accuracy (it is in every metrics.yaml), and quote that row's "
                "test accuracy.",
            ),
        ),
        makes=(
            "results/structured/l1_flops0.5/pruned_model.pth",
            "results/structured/random_flops0.5/pruned_model.pth",
            _COMPARISON,
            "results/summary.md",
        ),
        needs={DENSE: 1, "results/structured/bn_scale_flops0.5/pruned_model.pth": 10},
        seconds=55,
    ),
    Day(
        number=21,
        topic="failures_and_lessons",
        title="Where it breaks, and what three weeks have shown",
        learn=(
            "[[meant: over-pruning: where fine-tuning no longer brings the network back]]",
            "pruning in rounds where one shot fails, and how sure one run can be of it",
            "which of the course's rules held on this task, and which did not",
        ),
        why="A method is understood when one knows where it fails. [[meant: So far most things worked, because "
        "the digits are easy.]] Go until it breaks: 99% of the weights, 90% of the FLOPs.",
        idea="""
The curve of accuracy against sparsity is flat, then falls. Left of the bend everything works and nothing can be
compared; right of it differences show. What fails there is of two kinds: *capacity* (too few weights for the task,
no method helps) and *optimisation* (enough weights in principle, but the way there was too rough). Pruning in
rounds helps with the second only. So at the bend, try the same sparsity in rounds at the same cost: if it recovers,
it was not capacity.""",
        steps=(
            Step(
                "99% of the weights at once, 15 epochs.",
                f"{WEIGHTS} --method global --mode global --sparsity 0.99",
                True,
                saves=f"results/{_99}",
            ),
            Step(
                "99% in 5 cycles of 3 epochs: the same 15 epochs.",
                f"{WEIGHTS} --method global --mode global --sparsity 0.99 --iterative --num-iterations 5 "
                "fine_tune.epochs=3",
                may_miss=True,
                saves=f"results/{_99_ITERATIVE}",
            ),
            Step(
                "90% of the FLOPs.",
                f"{CUT} --method bn_scale --target-flops-reduction 0.9",
                may_miss=True,
                saves=f"results/{_90}",
            ),
            Step("The table again, now with the failures.", "pruning-bootcamp curriculum compare"),
            Step("The report, as one page.", "pruning-bootcamp report --results results --format html"),
            Step("Everything the course must have left behind.", "pruning-bootcamp validate final"),
        ),
        see="[[bend: 99% at once ends behind day 6's 97% at once]]: this is beyond the bend. [[rounds: In rounds, "
        "at the same cost, 1% of the weights get 90% or more right]]; [[advice: whether that beats one shot "
        "is not stated: it came out both ways]]; and **validation may say the opposite of the test**: who has "
        "to choose by validation, as one must, chooses between networks that are two or three images of 135 "
        "apart. [[flops: 90% of the FLOPs can be saved]]; [[advice: whether they cost more than half of them is not "
        "stated either: one run of each can't tell.]] What was measured "
        "here, and came out alike each time: [[spread: how zeros are spread is worth points, "
        "with the same score]] (day 4); fine-tuning brings back what a cut took; zeros are for files; time "
        "must be measured where it is spent; a validation split of 135 images is too small. [[advice: What "
        "could not be shown: that gradients rank weights better; that pruning in rounds wins; that a good "
        "score beats random after fine-tuning; that half the FLOPs take half the time.]]",
        claims=(
            above(
                "spread",
                metrics_of("course/global_sp0.8_untrained"),
                metrics_of("course/layerwise_sp0.8_untrained"),
                "accuracy",
                3,
                MEASURED,
            ),
            above("bend", metrics_of(_97), metrics_of(_99), "accuracy", 0.2, MEASURED),
            at_least("rounds", metrics_of(_99_ITERATIVE), "accuracy", 90, MEASURED),
            about(
                "flops", metrics_of(_90), "flops_reduction_pct", 90, 1, "the search stops within 1% of what was asked"
            ),
        ),
        questions=(
            Question(
                "[[supposed: Suppose one shot is 11 images of 449 behind in one run each, and validation says the "
                "opposite. Does it pay to prune in rounds?]]",
                "Not shown. [[supposed: If the two networks erred independently, the standard error of the difference "
                "would be about 1.1 points, and 2.4 is a bit more than two of those.]] And validation is biased: "
                "[[meant: the one shot's figure is the best of 15 epochs, that of the rounds the best of 3.]] "
                "[[advice: Seeds and more validation images would make a result of it.]]",
            ),
            Question(
                "Does 99% in rounds prove that 1% of the weights suffice for this task?",
                "That 2,700 weights, found by training the large network first, [[rounds: reach 90% or more.]] "
                "Whether a network that small could be trained from scratch is another question: the lottery ticket "
                "hypothesis (Frankle & Carbin, 2019) is about it, and `prune.rewind` runs it.",
            ),
            Question(
                "[[supposed: You have a week to make a network 40% faster at 1 point. What will you do, in order?]]",
                "Measure it where it will run, with the noise floor. Try runtime, batch size and int8 first. Then "
                "structured pruning to a budget, widths in multiples of what the runtime likes, fine-tuning as long "
                "as can be afforded, distillation if the task is hard. Random as the control. Verify the file. "
                "Report what failed.",
            ),
        ),
        makes=(
            f"results/{_99}/pruned_model.pth",
            f"results/{_99_ITERATIVE}/pruned_model.pth",
            f"results/{_90}/pruned_model.pth",
            "results/summary.html",
        ),
        needs={DENSE: 1, _COMPARISON: 20},
        seconds=85,
    ),
)
