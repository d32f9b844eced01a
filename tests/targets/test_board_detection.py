import pytest

from edgekd.targets.board_detection import is_board
from edgekd.targets.catalogue import load_target


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
