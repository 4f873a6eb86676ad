"""What the paper reports (Yang, Liu and Mirzasoleiman, ICML 2022), to be held against."""

from typing import NamedTuple


class Quoted(NamedTuple):
    """A published row: attack success and test accuracy in percent, time on one A40 in minutes."""

    success: float
    accuracy: float
    minutes: float | None = None


GRADIENT_MATCHING_200 = {"none": Quoted(45, 94.95), "EPIC": Quoted(1, 90.26)}
SLEEPER_AGENT = {"none": Quoted(78.54, 94.42), "EPIC": Quoted(11.55, 88.28)}
BULLSEYE_TRANSFER = {"none": Quoted(86, 94.69), "EPIC": Quoted(1, 94.80)}
COLLISION_TRANSFER = {"none": Quoted(40, 94.68), "EPIC": Quoted(0, 94.81)}
BULLSEYE_FINETUNE = {"none": Quoted(80, 92.24), "EPIC": Quoted(0, 92.38)}

TABLE_2_40 = {
    "none": Quoted(25, 92.48, 15),
    "Deep k-NN, given the number of poisons": Quoted(21, 91.86, 145),
    "Spectral Signatures, given the number of poisons": Quoted(17, 90.13, 40),
    "Activation Clustering": Quoted(9, 84.20, 31),
    "batch-level noisy SGD": Quoted(2, 70.34, 16),
    "Adversarial Poisoning 0.25, given epsilon": Quoted(4, 91.48, 113),
    "Adversarial Poisoning 0.5, given epsilon": Quoted(1, 90.67, 122),
    "Adversarial Poisoning 0.75, given epsilon": Quoted(0, 87.97, 146),
    "EPIC 0.1 active": Quoted(2.7, 90.92, 22),
    "EPIC 0.2 active": Quoted(1.3, 88.95, 19),
    "EPIC 0.3 active": Quoted(1.0, 87.03, 17),
}
TABLE_2_200 = {
    "none": Quoted(45, 94.95, 78),
    "Spectral Signatures, given the number of poisons": Quoted(10, 92.99, 202),
    "Activation Clustering": Quoted(11, 90.88, 153),
    "batch-level noisy SGD": Quoted(2, 80.71, 83),
    "EPIC 0.1 active": Quoted(2.3, 92.50, 110),
    "EPIC 0.2 active": Quoted(1.0, 89.71, 95),
    "EPIC 0.3 active": Quoted(0.7, 87.05, 88),
}
TABLE_3 = {
    "none": Quoted(40, 61.80, 60),
    "Adversarial Poisoning 0.5, given epsilon": Quoted(0, 53.54, 420),
    "EPIC 0.2 active": Quoted(0, 57.50, 60),
}
TABLE_4 = {
    "none": Quoted(90, 92.01),
    "Adversarial Poisoning 0.25, given epsilon": Quoted(35, 91.21),
    "Adversarial Poisoning 0.5, given epsilon": Quoted(10, 90.58),
    "Adversarial Poisoning 0.75, given epsilon": Quoted(0, 87.97),
    "EPIC 0.1 active": Quoted(10, 91.15),
    "EPIC 0.2 active": Quoted(0, 89.07),
}
