"""The cards that a plan can be made for: memory, compute capability and peak rates, from the vendor's data sheets.

Rates are dense (data sheets that print "with sparsity" are halved) and for sums kept in float32, which is what vLLM's
matrix products keep: GeForce cards do that at half the rate of sums in float16. Peaks are reached by no program; what
share of them an engine reaches is the time model's business, not this table's.

Memory is what the driver (NVML, `nvidia-smi`) reports as total. CUDA, and so vLLM, sees a little less of it: the driver
keeps some for itself (`Card.usable`).
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from judge.errors import JudgeError, printable

MIB, GIB = 1 << 20, 1 << 30
TERA = 1e12
GIGA = 1e9
# Most cards in one machine that a plan is made for.
MAX_CARDS = 64


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU model; `CPU` stands for having no GPU.

    What is usable are the bytes that CUDA reports as total (`torch.cuda.mem_get_info()[1]`), of which vLLM's
    `gpu_memory_utilization` is a share. The T4's is Kaggle's (kaggle-vllm, environment.json of 2026-09-02); the others
    are the smallest that published out-of-memory messages name, to a hundredth of a GiB.
    """

    name: str
    memory: int  # bytes that the driver reports as total
    usable: int  # bytes
    capability: tuple[int, int]  # compute capability, (7, 5) for a T4; (0, 0) for a CPU
    float16: float  # dense FLOP/s of matrix products in float16 with float32 sums
    bfloat16: float  # the same in bfloat16; 0 where the card has none
    float32: float  # FLOP/s in float32 (without TF32)
    bandwidth: float  # bytes/s between the card and its memory
    source: str  # where the rates are published

    @property
    def is_cpu(self) -> bool:
        """Whether this stands for a CPU. Its memory and rates are 0 here: they are measured, not looked up."""
        return self.capability == (0, 0)


CPU = Card("CPU", 0, 0, (0, 0), 0.0, 0.0, 0.0, 0.0, "measured, not looked up")

_NVIDIA = "https://www.nvidia.com/content/dam/en-zz/Solutions"
_T4 = f"{_NVIDIA}/Data-Center/tesla-t4/t4-tensor-core-datasheet-951643.pdf"
_L4 = "https://www.nvidia.com/en-us/data-center/l4/"
_A10 = f"{_NVIDIA}/Data-Center/a10/pdf/datasheet-new/nvidia-a10-datasheet.pdf"
_A10G = "https://d1.awsstatic.com/product-marketing/ec2/NVIDIA_AWS_A10G_DataSheet_FINAL_02_17_2022.pdf"
_AMPERE = "https://www.nvidia.com/content/PDF/nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.pdf"
_ADA = "https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf"
_A100 = f"{_NVIDIA}/Data-Center/a100/pdf/nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf"
_H100 = "https://www.nvidia.com/en-us/data-center/h100/"
_H200 = "https://www.nvidia.com/en-us/data-center/h200/"
_P100 = "https://images.nvidia.com/content/tesla/pdf/nvidia-tesla-p100-PCIe-datasheet.pdf"
_V100 = "https://images.nvidia.com/content/technologies/volta/pdf/volta-v100-datasheet-update-us-1165301-r5.pdf"

# Name, MiB (driver), GiB (CUDA), capability, TFLOP/s (float16, bfloat16, float32), GB/s, source.
_SHEETS = (
    ("T4", 15360, 15636037632 / GIB, (7, 5), (65, 0, 8.1), 300, _T4),
    ("L4", 23034, 22.03, (8, 9), (121, 121, 30.3), 300, _L4),
    ("A10", 23028, 22.06, (8, 6), (125, 125, 31.2), 600, _A10),
    ("A10G", 23028, 22.06, (8, 6), (70, 70, 35), 600, _A10G),
    ("RTX 3090", 24576, 23.56, (8, 6), (71, 71, 35.6), 936, _AMPERE),
    ("RTX 4090", 24564, 23.52, (8, 9), (165.2, 165.2, 82.6), 1008, _ADA),
    ("A100 40GB", 40960, 39.38, (8, 0), (312, 312, 19.5), 1555, _A100),
    ("A100 80GB", 81920, 79.18, (8, 0), (312, 312, 19.5), 1935, _A100),
    ("H100 PCIe", 81559, 79.11, (9, 0), (756, 756, 51), 2000, _H100),
    ("H100 SXM", 81559, 79.18, (9, 0), (989, 989, 67), 3350, _H100),
    ("H200", 143771, 139.72, (9, 0), (989, 989, 67), 4800, _H200),
    ("P100", 16384, 15.89, (6, 0), (18.7, 0, 9.3), 732, _P100),
    ("V100 16GB", 16384, 15.78, (7, 0), (125, 0, 15.7), 900, _V100),
)
CARDS = {
    name: Card(
        name, mib * MIB, int(gib * GIB), ability, half * TERA, brain * TERA, full * TERA, gigabytes * GIGA, source
    )
    for name, mib, gib, ability, (half, brain, full), gigabytes, source in _SHEETS
} | {CPU.name: CPU}

_COUNTED = (
    re.compile(r"(?P<count>\d{1,3})\s*[x×*]\s*(?P<name>.+)"),
    re.compile(r"(?P<name>.+?)\s*[x×*]\s*(?P<count>\d{1,3})"),
)


def parse_gpus(text: str) -> tuple[int, Card]:
    """Return how many cards of which kind `2xT4`, `2 x t4`, `T4 x2`, `RTX 4090` or `cpu` means.

    Raises:
        JudgeError: a card that is not in the table, or a number that makes no sense.
    """
    wanted, count, name = printable(text.strip(), 60), 1, text.strip().lower()
    if find_card(name) is None:
        match = next((m for m in (pattern.fullmatch(name) for pattern in _COUNTED) if m), None)
        if match:
            count, name = int(match["count"]), match["name"]
    card = find_card(name)
    if card is None:
        near = difflib.get_close_matches(_key(name), _NAMES, n=1, cutoff=0.5)
        meant = f"did you mean {_NAMES[near[0]]}?" if near else "unknown card;"
        raise JudgeError(f"--gpu={wanted}: {meant} known: {', '.join(CARDS)}; write 2xT4 for two")
    if not 1 <= count <= MAX_CARDS:
        raise JudgeError(f"--gpu={wanted}: expected 1 to {MAX_CARDS} cards")
    if card.is_cpu and count > 1:
        raise JudgeError(f"--gpu={wanted}: a plan is for one machine's CPU; use --gpu=cpu")
    return count, card


def find_card(name: str) -> Card | None:
    """Return the card of a name, as a user or the driver writes it (`Tesla T4`, `NVIDIA H200`), or None."""
    return CARDS.get(_NAMES.get(_key(name), ""))


def _key(name: str) -> str:
    return re.sub(r"\b(nvidia|tesla|geforce)\b|[\s_-]+", "", name.lower())


# Other names of cards. If there are two sizes, a short name means the smaller one: what a plan says fits it fits the
# other one too. H100 alone means the SXM card, as in NVIDIA's own pages.
_NAMES = {_key(name): name for name in CARDS} | {
    "3090": "RTX 3090",
    "4090": "RTX 4090",
    "a100": "A100 40GB",
    "a100sxm440gb": "A100 40GB",
    "a100sxm480gb": "A100 80GB",
    "a100pcie40gb": "A100 40GB",
    "a10080gbpcie": "A100 80GB",
    "h100": "H100 SXM",
    "h10080gbhbm3": "H100 SXM",
    "v100": "V100 16GB",
    "v100sxm216gb": "V100 16GB",
    "p100pcie16gb": "P100",
}
