import pytest

from edgekd.targets.board_detection import is_board
from edgekd.targets.catalogue import load_target

BOARDS = (
    *(
        "jetson-agx-xavier",
        "jetson-tx2",
        "jetson-nano",
        "jetson-xavier-nx",
        "jetson-agx-orin-64gb",
        "jetson-agx-orin-32gb",
    ),
    *(
        "jetson-orin-nano-8gb",
        "jetson-orin-nano-4gb",
        "jetson-orin-nx-16gb",
        "jetson-orin-nx-8gb",
        "jetson-thor-t5000",
    ),
    *("jetson-thor-t4000", "raspberry-pi-4", "raspberry-pi-5"),
)
# What images say of themselves, and which target it is. Sources: jetson_stats (MODULE_NAME_TABLE, jetson_release in
# issues), NVIDIA Jetson.GPIO (gpio_pin_data.py), adafruit/Adafruit_Python_PlatformDetect issues 36 and 37, NVIDIA's device
# trees, Linux (arch/arm64/boot/dts)
SEEN = {
    "AGX Xavier, L4T 32.1": ("jetson-xavier", "nvidia,jetson-xavier nvidia,tegra194", "jetson-agx-xavier"),
    "AGX Xavier, L4T 32.2": ("Jetson-AGX", "nvidia,e3360_1099 nvidia,jetson-xavier nvidia,p2972-0000+p2888-0004 nvidia,tegra194", "jetson-agx-xavier"),
    "AGX Xavier, nothing but its model": ("Jetson-AGX", "nvidia,tegra194", "jetson-agx-xavier"),
    "AGX Xavier 64 GB": ("Jetson-AGX", "nvidia,p2972-0000+p2888-0005 nvidia,tegra194", "jetson-agx-xavier"),
    "AGX Xavier, L4T 35": ("Jetson AGX Xavier Developer Kit", "nvidia,p2972-0000 nvidia,tegra194", "jetson-agx-xavier"),
    "AGX Xavier 8 GB": ("Jetson-AGX", "nvidia,p2972-0006+p2888-0006 nvidia,jetson-xavier nvidia,tegra194", None),
    "AGX Xavier 8 GB, its carrier alone": ("Jetson-AGX", "nvidia,p2972-0006 nvidia,jetson-xavier nvidia,tegra194", None),
    "AGX Xavier Industrial": ("Jetson-AGX", "nvidia,galen-industrial nvidia,jetson-xavier-industrial nvidia,p2972-0000+p2888-0008 nvidia,tegra194", None),
    "AGX Xavier Industrial, L4T 35": ("NVIDIA Jetson AGX Xavier Industrial Developer Kit", "nvidia,p2972-0000 nvidia,tegra194", None),
    "Clara AGX": ("Clara-AGX", "nvidia,e3900-0000+p2888-0004 nvidia,tegra194", None),
    "TX2, L4T 28": ("quill", "nvidia,quill nvidia,tegra186", "jetson-tx2"),
    "TX2, L4T 32": ("quill", "nvidia,quill nvidia,p2771-0000-c03 nvidia,tegra186", "jetson-tx2"),
    "TX2, L4T 32.7": ("NVIDIA Jetson TX2 Developer Kit", "nvidia,quill nvidia,tegra186", "jetson-tx2"),
    "TX2, Linux": ("NVIDIA Jetson TX2 Developer Kit", "nvidia,p2771-0000 nvidia,tegra186", "jetson-tx2"),
    "TX2 4GB": ("lightning", "nvidia,lightning nvidia,quill nvidia,p2771-0888 nvidia,tegra186", None),
    "TX2 4GB by its module": ("quill", "nvidia,quill nvidia,p2771-0000+p3489-0888 nvidia,tegra186", None),
    "TX2i": ("storm", "nvidia,storm nvidia,quill nvidia,p3489-0000 nvidia,tegra186", None),
    "TX2i by its title": ("NVIDIA Jetson TX2i", "nvidia,tegra186", None),
    "TX2 NX": ("NVIDIA Jetson TX2 NX Developer Kit", "nvidia,p3509-0000+p3636-0001 nvidia,tegra186", None),
    "TX2 NX, L4T 32": ("lanai-3636", "nvidia,p3509-0000+p3636-0001 nvidia,tegra186", None),
    "TX2 NX, the family alone": ("NVIDIA Jetson TX2 NX Developer Kit", "nvidia,quill nvidia,tegra186", None),
    "TX1": ("jetson_tx1", "nvidia,p2597-0000+p2180-1000 nvidia,jetson-cv nvidia,tegra210", None),
    "Nano": ("NVIDIA Jetson Nano Developer Kit", "nvidia,p3449-0000-b00+p3448-0000-b00 nvidia,jetson-nano nvidia,tegra210", "jetson-nano"),
    "Nano, L4T 32.1": ("NVIDIA Jetson Nano Developer Kit", "nvidia,p3450-0000 nvidia,jetson-nano nvidia,tegra210", "jetson-nano"),
    "Nano, eMMC": ("NVIDIA Jetson Nano Developer Kit", "nvidia,p3449-0000-b00+p3448-0002-b00 nvidia,jetson-nano nvidia,tegra210", "jetson-nano"),
    "Nano 2GB": ("NVIDIA Jetson Nano 2GB Developer Kit", "nvidia,p3542-0000+p3448-0003 nvidia,tegra210", None),
    "Nano 2GB, the family's word": ("NVIDIA Jetson Nano 2GB Developer Kit", "nvidia,jetson-nano nvidia,tegra210", None),
    "Xavier NX": ("NVIDIA Jetson Xavier NX Developer Kit", "nvidia,p3509-0000+p3668-0000 nvidia,p3449-0000+p3668-0000 nvidia,tegra194", "jetson-xavier-nx"),
    "Xavier NX, L4T 35": ("NVIDIA Jetson Xavier NX Developer Kit", "nvidia,p3449-0000+p3668-0001 nvidia,p3509-0000+p3668-0001 nvidia,tegra194", "jetson-xavier-nx"),
    "Xavier NX 16 GB": ("NVIDIA Jetson Xavier NX Developer Kit", "nvidia,p3449-0000+p3668-0003 nvidia,tegra194", "jetson-xavier-nx"),
    "AGX Orin 64GB": ("Jetson AGX Orin", "nvidia,p3737-0000+p3701-0005 nvidia,p3701-0005 nvidia,tegra234", "jetson-agx-orin-64gb"),
    "AGX Orin 32GB": ("NVIDIA Jetson AGX Orin Developer Kit", "nvidia,p3737-0000+p3701-0004 nvidia,p3701-0004 nvidia,tegra234", "jetson-agx-orin-32gb"),
    "AGX Orin of 2022": ("Jetson AGX Orin", "nvidia,p3737-0000+p3701-0000 nvidia,p3701-0000 nvidia,tegra234", None),
    "AGX Orin Industrial": ("NVIDIA Jetson AGX Orin Industrial", "nvidia,p3737-0000+p3701-0008 nvidia,p3701-0008 nvidia,tegra234", None),
    "IGX Orin": ("NVIDIA IGX Orin Development Kit", "nvidia,p3740-0002+p3701-0002 nvidia,tegra234", None),
    "Orin NX 16GB": ("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", "nvidia,p3768-0000+p3767-0000 nvidia,p3767-0000 nvidia,tegra234", "jetson-orin-nx-16gb"),
    "Orin NX 8GB": ("NVIDIA Jetson Orin NX", "nvidia,p3509-0000+p3767-0001 nvidia,tegra234", "jetson-orin-nx-8gb"),
    "Orin Nano 8GB": ("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", "nvidia,p3768-0000+p3767-0003-super nvidia,tegra234", "jetson-orin-nano-8gb"),
    "Orin Nano kit": ("NVIDIA Jetson Orin Nano Developer Kit", "nvidia,p3768-0000+p3767-0005 nvidia,p3767-0005 nvidia,tegra234", "jetson-orin-nano-8gb"),
    "Orin Nano 4GB": ("NVIDIA Jetson Orin Nano Developer Kit", "nvidia,p3768-0000+p3767-0004 nvidia,tegra234", "jetson-orin-nano-4gb"),
    "Thor T5000": ("NVIDIA Jetson AGX Thor Developer Kit", "nvidia,p4071-0000+p3834-0008 nvidia,p3834-0008 nvidia,tegra264", "jetson-thor-t5000"),
    "Thor T5000, Linux": ("NVIDIA Jetson AGX Thor Developer Kit", "nvidia,p3971-0089+p3834-0008 nvidia,p3834-0008 nvidia,tegra264", "jetson-thor-t5000"),
    "Thor T4000": ("NVIDIA Jetson Thor", "nvidia,p4071-0000+p3834-0000 nvidia,tegra264", "jetson-thor-t4000"),
    "Pi 4": ("Raspberry Pi 4 Model B Rev 1.5", "raspberrypi,4-model-b brcm,bcm2711", "raspberry-pi-4"),
    "Pi 400": ("Raspberry Pi 400 Rev 1.0", "raspberrypi,400 brcm,bcm2711", None),
    "CM4": ("Raspberry Pi Compute Module 4 Rev 1.0", "raspberrypi,4-compute-module brcm,bcm2711", None),
    "CM4S": ("Raspberry Pi Compute Module 4S Rev 1.0", "raspberrypi,4-compute-module-s brcm,bcm2711", None),
    "Pi 5": ("Raspberry Pi 5 Model B Rev 1.1", "raspberrypi,5-model-b brcm,bcm2712", "raspberry-pi-5"),
    "Pi 500": ("Raspberry Pi 500 Rev 1.0", "raspberrypi,500 brcm,bcm2712", None),
    "CM5": ("Raspberry Pi Compute Module 5 Rev 1.0", "raspberrypi,5-compute-module brcm,bcm2712", None),
    "Pi 3": ("Raspberry Pi 3 Model B Plus Rev 1.3", "raspberrypi,3-model-b-plus brcm,bcm2837", None),
}  # fmt: skip


@pytest.mark.parametrize("what", SEEN)
def test_a_board_is_taken_for_itself_and_for_no_other(what):
    model, compatible, truth = SEEN[what]
    found = [
        name
        for name in BOARDS
        if is_board(
            load_target(name).board, parts=compatible.split(), model=model, architecture="aarch64"
        )
    ]
    assert found == ([truth] if truth else [])


@pytest.mark.parametrize(
    ("name", "model", "same"),
    [
        ("raspberry-pi-4", "Raspberry Pi 4 Model B Rev 1.4", True),
        ("raspberry-pi-4", "Raspberry Pi 400 Rev 1.0", False),
        ("raspberry-pi-5", "Raspberry Pi 5 Model B Rev 1.0", True),
        ("raspberry-pi-5", "Raspberry Pi 500 Rev 1.0", False),
        ("jetson-nano", "NVIDIA Jetson Nano Developer Kit", True),
        ("jetson-nano", "NVIDIA Jetson Nano 2GB Developer Kit", False),
        ("jetson-nano", None, False),
        ("jetson-tx2", "NVIDIA Jetson TX2 Developer Kit", True),
        ("jetson-tx2", "NVIDIA Jetson TX2 NX Developer Kit", False),
        ("jetson-tx2", "NVIDIA Jetson TX2 4GB", False),
        ("jetson-tx2", "NVIDIA Jetson TX2i", False),
        ("jetson-agx-xavier", "NVIDIA Jetson AGX Xavier Industrial Developer Kit", False),
        ("jetson-xavier-nx", "Jetson-AGX", False),
    ],
)
def test_a_board_is_known_by_its_name_and_not_by_the_beginning_of_another(name, model, same):
    board = load_target(name).board
    assert is_board(board, parts=(), model=model, architecture="aarch64") is same


@pytest.mark.parametrize(
    ("name", "sm", "same"),
    [
        ("x86", None, True),
        ("x86-rtx", None, False),
        ("x86-rtx", "8.6", True),
        ("x86-rtx", "8.7", False),
    ],
)
def test_a_pc_is_known_by_its_card_where_the_card_is_the_point(name, sm, same):
    board = load_target(name).board
    assert is_board(board, parts=(), model=None, architecture="x86_64", sm=sm) is same
