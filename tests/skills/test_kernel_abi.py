"""The bytes that the kernel is asked with, held against its own headers by a C compiler."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Dict

import pytest

from pibot.skills import _gpiochip as chip
from pibot.skills import _i2cbus as i2c

COMPILER = shutil.which("cc") or shutil.which("gcc")
PROGRAM = r"""
#include <linux/gpio.h>
#include <linux/i2c-dev.h>
#include <linux/i2c.h>
#include <stdio.h>
#include <string.h>

static void bytes(const char *name, const void *data, unsigned size) {
    printf("%s ", name);
    for (unsigned i = 0; i < size; i++) printf("%02x", ((const unsigned char *)data)[i]);
    printf("\n");
}
#define NUMBER(name) printf(#name " %lx\n", (unsigned long)(name))

int main(void) {
    NUMBER(GPIO_GET_CHIPINFO_IOCTL);
    NUMBER(GPIO_V2_GET_LINEINFO_IOCTL);
    NUMBER(GPIO_V2_GET_LINE_IOCTL);
    NUMBER(GPIO_V2_LINE_SET_CONFIG_IOCTL);
    NUMBER(GPIO_V2_LINE_GET_VALUES_IOCTL);
    NUMBER(GPIO_V2_LINE_SET_VALUES_IOCTL);
    NUMBER(GPIO_V2_LINE_FLAG_USED);
    NUMBER(GPIO_V2_LINE_FLAG_INPUT);
    NUMBER(GPIO_V2_LINE_FLAG_OUTPUT);
    NUMBER(I2C_SLAVE); NUMBER(I2C_SMBUS); NUMBER(I2C_FUNCS);
    NUMBER(I2C_SMBUS_READ); NUMBER(I2C_SMBUS_WRITE);
    NUMBER(I2C_SMBUS_QUICK); NUMBER(I2C_SMBUS_BYTE); NUMBER(I2C_SMBUS_BYTE_DATA);
    NUMBER(I2C_SMBUS_I2C_BLOCK_DATA); NUMBER(I2C_SMBUS_BLOCK_MAX);
    NUMBER(I2C_FUNC_SMBUS_QUICK); NUMBER(I2C_FUNC_SMBUS_READ_BYTE);
    NUMBER(I2C_FUNC_SMBUS_READ_BYTE_DATA); NUMBER(I2C_FUNC_SMBUS_READ_I2C_BLOCK);

    struct gpio_v2_line_request request;
    memset(&request, 0, sizeof request);
    request.offsets[0] = 17;
    strcpy(request.consumer, "pibot");
    request.num_lines = 1;
    bytes("request", &request, sizeof request);
    request.fd = 99;
    bytes("answer", &request, sizeof request);

    struct gpio_v2_line_config config;
    memset(&config, 0, sizeof config);
    config.flags = GPIO_V2_LINE_FLAG_INPUT;
    bytes("input", &config, sizeof config);
    config.flags = GPIO_V2_LINE_FLAG_OUTPUT;
    config.num_attrs = 1;
    config.attrs[0].attr.id = GPIO_V2_LINE_ATTR_ID_OUTPUT_VALUES;
    config.attrs[0].attr.values = 1;
    config.attrs[0].mask = 1;
    bytes("high", &config, sizeof config);

    struct gpio_v2_line_info info;
    memset(&info, 0, sizeof info);
    strcpy(info.name, "GPIO17");
    strcpy(info.consumer, "lamp");
    info.offset = 17;
    info.flags = GPIO_V2_LINE_FLAG_USED | GPIO_V2_LINE_FLAG_OUTPUT;
    bytes("info", &info, sizeof info);

    struct gpiochip_info chip;
    memset(&chip, 0, sizeof chip);
    strcpy(chip.name, "gpiochip0");
    strcpy(chip.label, "pinctrl-bcm2835");
    chip.lines = 54;
    bytes("chip", &chip, sizeof chip);

    struct gpio_v2_line_values values = {.bits = 0, .mask = 1};
    bytes("values", &values, sizeof values);

    struct i2c_smbus_ioctl_data transfer;
    memset(&transfer, 0, sizeof transfer);
    transfer.read_write = I2C_SMBUS_READ;
    transfer.command = 0xd0;
    transfer.size = I2C_SMBUS_I2C_BLOCK_DATA;
    transfer.data = (union i2c_smbus_data *)0x123456;
    bytes("transfer", &transfer, sizeof transfer);
    return 0;
}
"""
NUMBERS = {
    "GPIO_GET_CHIPINFO_IOCTL": chip.GET_CHIP_INFO,
    "GPIO_V2_GET_LINEINFO_IOCTL": chip.GET_LINE_INFO,
    "GPIO_V2_GET_LINE_IOCTL": chip.GET_LINE,
    "GPIO_V2_LINE_SET_CONFIG_IOCTL": chip.SET_CONFIG,
    "GPIO_V2_LINE_GET_VALUES_IOCTL": chip.GET_VALUES,
    "GPIO_V2_LINE_SET_VALUES_IOCTL": chip.SET_VALUES,
    "GPIO_V2_LINE_FLAG_USED": chip.USED,
    "GPIO_V2_LINE_FLAG_INPUT": chip.INPUT,
    "GPIO_V2_LINE_FLAG_OUTPUT": chip.OUTPUT,
    "I2C_SLAVE": i2c.SLAVE,
    "I2C_SMBUS": i2c.SMBUS,
    "I2C_FUNCS": i2c.FUNCS,
    "I2C_SMBUS_READ": i2c.READ,
    "I2C_SMBUS_WRITE": i2c.WRITE,
    "I2C_SMBUS_QUICK": i2c.QUICK,
    "I2C_SMBUS_BYTE": i2c.BYTE,
    "I2C_SMBUS_BYTE_DATA": i2c.BYTE_DATA,
    "I2C_SMBUS_I2C_BLOCK_DATA": i2c.I2C_BLOCK,
    "I2C_SMBUS_BLOCK_MAX": i2c.MOST_BYTES,
    "I2C_FUNC_SMBUS_QUICK": i2c.CAN_QUICK,
    "I2C_FUNC_SMBUS_READ_BYTE": i2c.CAN_READ_BYTE,
    "I2C_FUNC_SMBUS_READ_BYTE_DATA": i2c.CAN_READ_BYTE_DATA,
    "I2C_FUNC_SMBUS_READ_I2C_BLOCK": i2c.CAN_READ_BLOCK,
}
BYTES = {
    "request": chip.requested(17),
    "answer": chip.LINE_REQUEST.pack(17, chip.CONSUMER, chip.config(0), 1, 0, 99),
    "input": chip.config(chip.INPUT),
    "high": chip.config(chip.OUTPUT, True),
    "info": chip.LINE_INFO.pack(b"GPIO17", b"lamp", 17, 0, chip.USED | chip.OUTPUT),
    "chip": chip.CHIP_INFO.pack(b"gpiochip0", b"pinctrl-bcm2835", 54),
    "values": chip.LINE_VALUES.pack(0, 1),
    "transfer": i2c.TRANSFER.pack(i2c.READ, 0xD0, i2c.I2C_BLOCK, 0x123456),
}


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Dict[str, str]:
    """What the headers of this machine say."""
    if COMPILER is None or not Path("/usr/include/linux/gpio.h").exists():
        pytest.skip("there is no C compiler here, or no headers of the kernel")
    folder = tmp_path_factory.mktemp("abi")
    source, program = folder / "abi.c", folder / "abi"
    source.write_text(PROGRAM)
    subprocess.run([COMPILER, "-o", str(program), str(source)], check=True)
    said = subprocess.run([str(program)], check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(re.findall(r"(\S+) (\S+)", said))


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number(kernel: Dict[str, str], name: str) -> None:
    assert int(kernel[name], 16) == NUMBERS[name]


@pytest.mark.parametrize("name", BYTES)
def test_a_structure(kernel: Dict[str, str], name: str) -> None:
    assert BYTES[name].hex() == kernel[name]
