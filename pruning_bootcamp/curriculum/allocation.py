"""Days 5 to 7: where the zeros go, when they come, and how the network is trained afterwards."""

from pruning_bootcamp.curriculum.claims import MEASURED, Place, about, above, at_least, order
from pruning_bootcamp.curriculum.day import DENSE, WEIGHTS, Day, Question, Step, metrics_of

_ERK_80 = "course/erk_sp0.8_untrained"
_LAYERWISE_80 = "course/layerwise_sp0.8_untrained"
_GLOBAL_80 = "course/global_sp0.8_untrained"
_SENSITIVITY = "results/sensitivity/magnitude_layer"
_SCAN = f"{_SENSITIVITY}/sensitivity.yaml"
_BY_SCAN_80 = "course/by_scan_sp0.8_untrained"
_LATE = ("layer3.0.conv2", "layer3.1.conv1", "layer3.1.conv2", "layer3.2.conv1", "layer3.2.conv2")
_97 = f"{WEIGHTS} --method global --mode global --sparsity 0.97"
_ONE_SHOT = "unstructured/global_global_sp0.97"
_ITERATIVE = "unstructured/global_global_sp0.97_x5"
_GRADUAL = "unstructured/global_global_sp0.97_gradual"

ALLOCATION = (
    Day(
        number=5,
        topic="sensitivity",
        title="Allocation: which layers can spare weights",
        learn=(
            "a sensitivity scan: one layer pruned at a time, the rest left whole",
            "ERK, an allocation from the layers' shapes alone",
            "what a scan of single layers can't see",
        ),
        why="Day 4 showed what spreading alone is worth. So look at the layers one by one: which of them mind? A "
        "scan answers with measurements instead of a rule, and [[advice: it is the first thing to do with a "
        "network that one does not know.]]",
        idea="""
For each layer `l` and sparsity `s`: prune `l` alone to `s`, measure, put it back. The curve `accuracy_l(s)` is the
layer's sensitivity (Li et al., 2017, figure 2, for filters; Han et al., 2015). It costs (layers x sparsities)
evaluations and no training. Layers whose curve falls early are given less sparsity.

**ERK** (Evci et al., 2020) asks no data: the *density* of a layer is proportional to the sum of its dimensions over
their product, `d_l ~ (n_out + n_in + k_h + k_w) / (n_out n_in k_h k_w)`. Small layers stay denser.

A scan assumes that damages add up. They don't: two layers that each do without a third of their weights may not do
so together, since each was measured with the other whole to make up for it.""",
        steps=(
            Step(
                "One layer at a time to 50, 70 and 90%, validation accuracy each time; nothing is trained.",
                "pruning-bootcamp sensitivity -c cfgs/digits.yaml --sparsities 0.5,0.7,0.9 --by layer",
                saves=_SENSITIVITY,
            ),
            Step(
                "ERK at 80%, no fine-tuning: beside layerwise (day 3) and global (day 4).",
                f"{WEIGHTS} --method magnitude --mode erk --sparsity 0.8 --no-fine-tune --save-dir results/{_ERK_80}",
                may_miss=True,
            ),
            Step(
                "80% spread by the scan, no fine-tuning.",
                f"{WEIGHTS} --method l1 --sparsity 0.8 --no-fine-tune prune.allocation.name=sensitivity "
                f"prune.allocation.args.file={_SCAN} --save-dir results/{_BY_SCAN_80}",
                may_miss=True,
            ),
        ),
        see="[[early: The first convolution (144 weights) alone at 90% costs more than any one of the third "
        "stage's, which hold most of the weights, at 90%.]] How much it costs, and which others of the first "
        "stage mind, is another story in each network: look at yours. [[uneven: Spread by the scan, by ERK or "
        "by one global ranking, 80% without training leave a better network than 80% spread evenly.]] ERK has "
        "seen neither data nor weights: what the three have in common is not being even; which of the three "
        "comes first is not stated.",
        claims=(
            order(
                "early",
                [Place(_SCAN, f"rows/name={name}/points/sparsity=0.9/accuracy") for name in _LATE],
                [Place(_SCAN, "rows/name=conv1/points/sparsity=0.9/accuracy")],
                10,
                MEASURED,
            ),
            above(
                "uneven",
                (metrics_of(_BY_SCAN_80), metrics_of(_ERK_80), metrics_of(_GLOBAL_80)),
                metrics_of(_LAYERWISE_80),
                "accuracy",
                2,
                MEASURED,
            ),
        ),
        questions=(
            Question(
                "[[supposed: Suppose that in the scan every layer stands 50% alone, and most stand 90%. May all be "
                "pruned so?]]",
                "No: [[meant: a scan measures each layer with the others intact, ready to make up for it, so it ranks "
                "layers and sets no budget. Damages that are small one by one may be large together]]: compare the "
                "scan at 70 and 90% with 80% of every layer on day 3. Use it to decide which layers to spare, and "
                "measure the sum.",
            ),
            Question(
                "Why is the scan made on the validation split?",
                "Because it decides something: how much goes from each layer. Were it made on the test split, the "
                "allocation would be fitted to the test images, and the final figure would be too good.",
            ),
            Question(
                "[[uneven: ERK uses no weights and no data, and does better than spreading evenly.]] What does that "
                "suggest?",
                "[[supposed: That its gain comes from sparing the small layers.]] An experiment that would tell: "
                "shuffle the weights *inside* each layer after taking the global counts. [[paper: Frankle et al. "
                "(2021) did such shuffles for pruning at initialisation, where counts mattered more than which "
                "weights.]]",
            ),
        ),
        makes=(_SCAN, metrics_of(_ERK_80), metrics_of(_BY_SCAN_80)),
        needs={DENSE: 1, metrics_of(_LAYERWISE_80): 3, metrics_of(_GLOBAL_80): 4},
        seconds=45,
    ),
    Day(
        number=6,
        topic="iterative",
        title="One shot, in cycles, or gradually",
        learn=(
            "three ways to reach the same sparsity: at once, in rounds, during training",
            "how to compare them fairly: the same number of epochs for each",
            "to report a comparison that came out the other way",
        ),
        why="[[shock: Pruning 97% at once is a shock: most of what the network knew is gone before it can "
        "adapt.]] Pruning a little, training, pruning again lets the rest take over, and each round's choice "
        "is made on weights that have adapted to the rounds before. [[supposed: So pruning in rounds should "
        "be better. It is usually also given more training, and then one does not know which of the two "
        "helped.]] Here all three get 15 epochs.",
        idea="""
In cycles (Han et al., 2015): sparsity `s_1 < s_2 < ... < s_N = s`, fine-tuning after each. Gradual (Zhu & Gupta,
2017): the sparsity grows while training goes on,

    s_t = s_f * (1 - (1 - t / T)^3)

much at first, when there is much to spare, and little at the end. Zeros stay zeros: each step adds to the last
mask.""",
        steps=(
            Step("97% at once, then 15 epochs.", _97, saves=f"results/{_ONE_SHOT}"),
            Step(
                "97% in 5 cycles of 3 epochs: the same 15 epochs.",
                f"{_97} --iterative --num-iterations 5 fine_tune.epochs=3",
                may_miss=True,
                saves=f"results/{_ITERATIVE}",
            ),
            Step(
                "97% gradually over the first 75% of 15 epochs.",
                f"{_97} --gradual",
                may_miss=True,
                saves=f"results/{_GRADUAL}",
            ),
        ),
        see="[[one_shot, rounds, gradual: All three come back to 95% or more, with 3% of the weights.]] Which of "
        "them comes first is not stated: one seed can't tell a few images of 449 from luck. The textbook says "
        "that [[paper: pruning in rounds wins (Han et al., 2015); the usual comparison gives it N times the "
        "epochs, and a harder task.]] [[shock: Right after the cut, before fine-tuning, the one-shot network "
        "has lost many points of validation accuracy]]: the shock is real, and 15 epochs undo it.",
        claims=(
            at_least("one_shot", metrics_of(_ONE_SHOT), "accuracy", 96.5, MEASURED),
            at_least("rounds", metrics_of(_ITERATIVE), "accuracy", 96, MEASURED),
            at_least("gradual", metrics_of(_GRADUAL), "accuracy", 95, MEASURED),
            order(
                "shock",
                [Place(metrics_of(_ONE_SHOT), "cycles/0/val_accuracy")],
                [Place(metrics_of(_ONE_SHOT), "cycles/0/val_accuracy_pruned")],
                15,
                MEASURED,
            ),
            about("zeros", metrics_of(_ITERATIVE), "sparsity", 0.97, 0.001, "counted"),
        ),
        questions=(
            Question(
                "What would make iterative pruning pay on this task?",
                "A sparsity at which one shot can't recover: day 21 goes to 99%. [[meant: Fewer weights left means "
                "that each wrong choice is dearer]], and that is where choosing in rounds can help. Try `--sparsity "
                "0.99` with and without `--iterative`, with three seeds each.",
            ),
            Question(
                "The course's own command is `--iterative --num-iterations 5` without `fine_tune.epochs`. How much "
                "training is that?",
                "[[counted: 5 cycles of 15 epochs, 75 in all, against 15 for one shot.]] [[supposed: If it then wins "
                "by half a point, the fair rival is one shot with 75 epochs, and usually nobody has run it.]]",
            ),
            Question(
                "[[supposed: Why does the cubic schedule prune most at the beginning?]]",
                "[[counted: When few weights are gone the next ones to go matter little, and there is much training "
                "left to repair. Near the end each step removes a larger share *of what is left*: from 96% to 97% is "
                "one percent of all weights and a quarter of the remaining ones.]]",
            ),
        ),
        makes=tuple(f"results/{folder}/pruned_model.pth" for folder in (_ONE_SHOT, _ITERATIVE, _GRADUAL)),
        needs={DENSE: 1},
        seconds=65,
    ),
    Day(
        number=7,
        topic="fine_tuning",
        title="Fine-tuning: learning rate, length, teacher",
        learn=(
            "what the learning rate of fine-tuning does, and how wrong the common rule can be",
            "[[meant: how soon more epochs stop helping]]",
            "distillation: the dense network as a teacher; and what week 1 must have left behind",
        ),
        why="Which weights go is the part that papers are about. [[paper: What happens afterwards often decides "
        "more: Liu et al. (2019) and Renda et al. (2020) found that the schedule of retraining explains much "
        "of what had been credited to pruning methods.]] So vary one thing at a time, from the same pruned "
        "network.",
        idea="""
The pruned network starts from a damaged but useful place. A small learning rate keeps what is there and may not get
far enough; a large one forgets and relearns. The rule of thumb is a tenth of the training's rate. Renda et al.
(2020) found that going back to the training's own schedule ("learning rate rewinding") is as good or better.

Distillation (Hinton et al., 2015): the loss also asks for the dense network's outputs, softened by a temperature
`T`,

    loss = (1 - a) * cross_entropy(labels) + a * T^2 * KL(teacher / T, student / T)

so each image says not only which class it is, but which ones it resembles.""",
        steps=(
            Step(
                "Day 6's one shot (learning rate 0.05) with a fiftieth of that rate.",
                f"{_97} fine_tune.lr=0.001 --save-dir results/course/fine_tune_lr0.001",
                may_miss=True,
            ),
            Step(
                "With ten times the rate: five times that of the dense training.",
                f"{_97} fine_tune.lr=0.5 --save-dir results/course/fine_tune_lr0.5",
                may_miss=True,
            ),
            Step(
                "3 epochs instead of 15.",
                f"{_97} fine_tune.epochs=3 --save-dir results/course/fine_tune_3_epochs",
                may_miss=True,
            ),
            Step(
                "With the dense network as teacher.",
                f"{_97} fine_tune.distill=0.9 --save-dir results/course/fine_tune_distilled",
                may_miss=True,
            ),
            Step("What the first week must have left behind.", "pruning-bootcamp validate week1"),
        ),
        see="[[small_rate: A fiftieth of the rate ends behind day 6's rate, with a teacher or without: too small "
        "a rate loses points that 15 epochs should have brought back. The usual advice to be careful with the "
        "rate has its price.]] [[large_rate, short, teacher: Ten times day 6's rate, a fifth of its epochs, "
        "and a teacher come back to 95% or more]]; what is between these is a few images, and its order is "
        "luck. All checks of week 1 hold.",
        claims=(
            above(
                "small_rate",
                (metrics_of(_ONE_SHOT), metrics_of("course/fine_tune_distilled")),
                metrics_of("course/fine_tune_lr0.001"),
                "accuracy",
                0.5,
                MEASURED,
            ),
            at_least("large_rate", metrics_of("course/fine_tune_lr0.5"), "accuracy", 95, MEASURED),
            at_least("short", metrics_of("course/fine_tune_3_epochs"), "accuracy", 95, MEASURED),
            at_least("teacher", metrics_of("course/fine_tune_distilled"), "accuracy", 96.5, MEASURED),
        ),
        questions=(
            Question(
                "Which of these runs would you use to choose a learning rate, and by which figure?",
                "By `val_accuracy` in each metrics.yaml, never by the test accuracy that this page shows. [[counted: "
                "With 135 validation images one is 0.74 points]], so good rates may tie; then say that they tie, or "
                "hold out another share (`data.val_fraction=0.3`).",
            ),
            Question(
                "[[supposed: Why might distillation help more at 90% accuracy than at 99%?]]",
                "[[meant: The teacher tells more than the label where it hesitates between classes. A teacher that is "
                "99.9% sure of every training image says the label again.]]",
            ),
            Question(
                "Suppose the pruned network is fine-tuned for 15 epochs and ends above the dense one by 0.2 points. "
                "What do you need before you say that pruning regularises?",
                "The dense network with the same 15 further epochs (the fairness card), and seeds: [[counted: 0.2 "
                "points is one image.]]",
            ),
        ),
        makes=tuple(metrics_of(f"course/fine_tune_{name}") for name in ("lr0.001", "lr0.5", "3_epochs", "distilled")),
        needs={DENSE: 1, f"results/{_ONE_SHOT}/pruned_model.pth": 6},
        seconds=80,
    ),
)
