#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The tests of test-libvirt.py with virtqemud, where a host has it beside libvirtd."""
import os
import shutil
import sys

import libvirt

if os.environ.get("MEMSHARED_TEST_LIBVIRTD") or libvirt.MODULAR:
    libvirt.skip("the other tests of libvirt run with it already")
if not shutil.which("virtqemud"):
    libvirt.skip("no virtqemud on this machine (Debian has libvirtd alone)")
os.environ["MEMSHARED_TEST_LIBVIRTD"] = "virtqemud"
os.execv(sys.executable, [sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                                       "test-libvirt.py"), *sys.argv[1:]])
