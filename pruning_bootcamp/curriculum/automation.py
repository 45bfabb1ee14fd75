"""Days 19 to 21: a search, the report, what failed."""

from pruning_bootcamp.curriculum.day import CUT, DENSE, DISTILLED, WEIGHTS, Day, Question, Step, about, metrics_of

_SWEEP = "results/sweep/digits"
_99 = "unstructured/global_global_sp0.99"
_99_ITERATIVE = "unstructured/global_global_sp0.99_x5"
_90 = "structured/bn_scale_flops0.9"
_COMPARISON = "results/final_comparison.csv"

AUTOMATION = (
    Day(
        number=19,
        topic="sweep",
        title="A sweep, and its Pareto front",
        learn=(
            "grid, random and guided search, and what each costs",
            "the Pareto front: when there is no best network",
            "how a search overfits the split that it looks at",
        ),
        why="So far one thing was changed at a time, by hand. Method, budget, learning rate and epochs interact: "
        "more FLOPs cut may want more epochs. A search tries combinations, keeps every trial, and shows what "
        "was bought at which price.",
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
        see="24 trials, each run to its end (three epochs are too few to stop one early), and a front of five to "
        "seven: from 59 to 77% at a tenth of the FLOPs to about 98% at half. The config has no favourite: scores are "
        "batch norm's scale and *random*, and **random holds five of the seven** where the dense network was trained "
        "on one thread, and two of five where it was on two. With only 3 epochs of fine-tuning this can't be laid to "
        "long training: batch norm's scale means little in a network trained without the penalty of day 9. And the "
        "lowest of the three learning rates is on neither front, as on day 7.",
        figures=(
            about(f"{_SWEEP}/sweep.yaml", "hypervolume", 0.852, 0.06),
            about(f"{_SWEEP}/sweep.yaml", "dense/accuracy", 99.5, 1.0),
        ),
        questions=(
            Question(
                "The sweep ran on 404 validation images, not 135. Why was that changed?",
                "24 trials are ranked, and with 135 images one image is 0.74 points: the front would be drawn by "
                "luck. 404 come out of the training images (`data.val_fraction=0.3`), so the dense network here is "
                "another one, a little worse, and its figures are not to be mixed with those of the other days.",
            ),
            Question(
                "A trial has lower accuracy and higher FLOPs than another. Can you delete it?",
                "From the front it is gone already; from the records no. It says which region does not pay, and it is "
                "needed to know how many were tried, without which the best can't be judged.",
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
            "one table of everything, including what lost",
            "an ablation: change one thing, keep the budget",
            "the random row again, at the course's own goal",
        ),
        why="Three weeks of runs are in `results/`. A report that shows the best three is an advertisement. The "
        "table of all, with the goal they were judged by, lets a reader see what mattered. One ablation is "
        "missing for it: on day 10 batch norm's scale met the goal at half the FLOPs. Was it the score?",
        idea="""
An **ablation** takes one part away and leaves the rest, at the same cost and with the same training. Here: the same
half of the FLOPs, the same 30 epochs, other scores; one of them random. If random does as well, the score was not
what met the goal.

What a report needs: the dense network, what was done, the figures with the number of images and seeds, the machine,
what failed, and what one would do next.""",
        steps=(
            Step("Half the FLOPs by L1.", f"{CUT} --method l1 --target-flops-reduction 0.5 {DISTILLED}", may_miss=True),
            Step(
                "Half the FLOPs at random.",
                f"{CUT} --method random --target-flops-reduction 0.5 {DISTILLED}",
                may_miss=True,
            ),
            Step("Every pruning run in one table.", "pruning-bootcamp curriculum compare"),
            Step("The written report.", "pruning-bootcamp report --results results --format md"),
        ),
        see="At half the FLOPs batch norm's scale (day 10) loses 0.2 points, random channels 0.5, L1 1.1; with "
        "two threads instead of one it was 0.5, 0.5 and 0.7. These are one to five images of 449, so the "
        "order is luck; what is not luck is that no score beat random by anything that counts. On this "
        "network and task the goal is met by the budget, the proof and the fine-tuning. The claim 'batch "
        "norm's scale meets the goal' is true, and 'because of the score' is not supported. The report says "
        "'run more seeds' at nearly every comparison, and it is right.",
        figures=(
            about(metrics_of("structured/random_flops0.5"), "accuracy", 98.89, 1.6),
            about(metrics_of("structured/l1_flops0.5"), "accuracy", 98.22, 1.8),
            about(metrics_of("structured/bn_scale_flops0.5"), "accuracy", 99.11, 1.3),
            about(metrics_of("structured/random_flops0.5"), "flops_reduction_pct", 50.1, 1.0),
        ),
        questions=(
            Question(
                "How would you find out whether the scores differ at all?",
                "More seeds (5 of each, the same seeds for all), a harder task or a harder cut, where the curve "
                "bends, and less fine-tuning. Then the mean difference with its standard error. On CIFAR-10 "
                "`DATASET=cifar10` gives 10,000 test images: a standard error of 0.25 points instead of 0.47.",
            ),
            Question(
                "Why is it fair that all got 30 epochs, though one method may want 60?",
                "It is fair at that cost, and says nothing about others. If the cost of training does not matter to "
                "you, give each what it needs and report that too. What is never fair is different costs without "
                "saying so.",
            ),
            Question(
                "Your table has 30 rows judged on the same 449 test images. Is the test split still unread?",
                "Each run read it once, but you now look at 30 figures. If you pick the best row, you have chosen "
                "on test. Pick by validation accuracy (it is in every metrics.yaml), and quote that row's test "
                "accuracy.",
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
            "over-pruning: where fine-tuning no longer brings the network back",
            "pruning in rounds where one shot fails, and how sure one run can be of it",
            "which of the course's rules held on this task, and which did not",
        ),
        why="A method is understood when one knows where it fails. So far most things worked, because the digits "
        "are easy. Go until it breaks: 99% of the weights, 90% of the FLOPs.",
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
            ),
            Step(
                "99% in 5 cycles of 3 epochs: the same 15 epochs.",
                f"{WEIGHTS} --method global --mode global --sparsity 0.99 --iterative --num-iterations 5 "
                "fine_tune.epochs=3",
                may_miss=True,
            ),
            Step(
                "90% of the FLOPs.",
                f"{CUT} --method bn_scale --target-flops-reduction 0.9",
                may_miss=True,
            ),
            Step("The table again, now with the failures.", "pruning-bootcamp curriculum compare"),
            Step("The report, as one page.", "pruning-bootcamp report --results results --format html"),
            Step("Everything the course must have left behind.", "pruning-bootcamp validate final"),
        ),
        see="99% at once loses over three points and misses the goal; in rounds, at the same cost, it loses one: 11 "
        "images of 449 apart on the test split. (On two threads 2.4 and 2.0 points: two images.) On day 6, at 97%, "
        "the same comparison had shown nothing: it was asked left of the bend. **But validation says the opposite** "
        "both times, 99.3% for one shot against 97.8% (97.0), two or three images of 135: who had to choose by "
        "validation, as one must, would have taken the worse network. 90% of the FLOPs lose three to five points, and "
        "validation (98.5 to 99.3%) had not warned of that either. What held here: spreading matters more than the "
        "score; fine-tuning matters more than either; zeros are for files, channels for time; time must be measured "
        "where it is spent; a validation split of 135 images is too small. What did not: gradients rank better; "
        "iterative always wins; a good score beats random; fewer FLOPs are faster.",
        figures=(
            about(metrics_of(_99), "accuracy", 95.99, 3.0),
            about(metrics_of(_99_ITERATIVE), "accuracy", 98.44, 1.8),
            about(metrics_of(_99), "cycles/0/val_accuracy", 99.26, 2.3),
            about(metrics_of(_90), "accuracy", 94.88, 4.0),
            about(metrics_of(_90), "val_accuracy", 99.26, 3.0),
            about(metrics_of(_90), "flops_reduction_pct", 90.2, 1.5),
        ),
        questions=(
            Question(
                "11 images of 449 in one run each, and validation says the opposite. Does it pay to prune in rounds?",
                "Not shown. If the two networks erred independently, the standard error of the difference would be "
                "about 1.1 points, and 2.4 is a bit more than two of those. On two threads 2 of the 11 images were "
                "left. And validation disagrees, though it is biased: the one shot's figure is the best of 15 epochs, "
                "that of the rounds the best of 3. One experiment, with the sign that the literature gives; seeds and "
                "more validation images would make it a result.",
            ),
            Question(
                "Does 99% in rounds prove that 1% of the weights suffice for this task?",
                "That 2,700 weights, found by training the large network first, reach 97 to 98%. Whether a network "
                "that small could be trained from scratch is another question: the lottery ticket hypothesis (Frankle "
                "& Carbin, 2019) is about it, and `prune.rewind` runs it.",
            ),
            Question(
                "You have a week to make a network 40% faster at 1 point. What will you do, in order?",
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
