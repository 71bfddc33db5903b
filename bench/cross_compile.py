"""Compiles launches of kernels for GPUs that are not there, and reads what came out.

A launch is specialised by Triton's own code: pointers and integers that 16 divides, integers of 1,
integers beyond 2³¹. So a kernel here is the one that a GPU would run. Compiling takes processes of
its own: a compiler that aborts takes its process with it.
"""

import contextlib
import importlib
import io
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from inner_loop import InnerLoop, inner_loop
from sass import Code

# Their exponentials stand before or after the loop; convolutions have none.
WITHOUT_EXPONENTIALS = (
    *("forward_short", "backward_short"),
    *("pointwise_convolution", "pooled_stem_kernel"),
)
LAYOUT = re.compile(
    r"^(#\w+) = #ttg\.nvidia_mma<\{versionMajor = (\d+).*?warpsPerCTA = \[(\d+), (\d+)\]", re.M
)
DOT = re.compile(r"(?:tt\.dot|ttng\.warp_group_dot) .*-> tensor<(\d+)x(\d+)x\w+, (#\w+)>")
DOT_OF_TENSOR_MEMORY = re.compile(r"ttng\.tc_gen5_mma .*?(?:memdesc<.*?){2}memdesc<(\d+)x(\d+)x")


class Compilation(NamedTuple):
    """What the compiler is given, in plain data: it goes to another process, and equal ones are
    compiled once."""

    module: str
    kernel: str
    signature: dict[str, str]
    constants: dict[tuple[int, ...], Any]
    attributes: dict[tuple[int, ...], Any]
    options: dict[str, int]
    architecture: int

    @property
    def key(self) -> str:
        return repr(self)


class Dot(NamedTuple):
    """A matrix product of the TTGIR: its result's size, the layout's version (2: mma.sync, 3:
    wgmma, 5: tcgen05, 0: without tensor cores) and its warps along rows and columns."""

    rows: int
    columns: int
    version: int
    warps: tuple[int, int]


class Resources(NamedTuple):
    """What a compiled kernel takes; error: why there is none. loads, stores: to local memory, which
    are spills. loop: of kernels with dots."""

    error: str = ""
    shared: int = 0
    dots: tuple[Dot, ...] = ()
    registers: int = 0
    loads: int = 0
    stores: int = 0
    loop: InnerLoop | None = None


def specialise(launch: Any, architecture: int) -> Compilation:
    """The compilation that Triton would do when this `Launch` starts."""
    kernel = launch.kernel
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    backend, bind = _binder(kernel, architecture)
    bound, specialization, chosen = bind(**launch.arguments, **options)
    _, signature, constants, attributes = kernel._pack_args(
        backend, options, bound, specialization, chosen
    )
    names = (kernel.fn.__module__, kernel.fn.__name__)
    return Compilation(*names, signature, constants, attributes, options, architecture)


@cache
def _binder(kernel: Any, architecture: int) -> tuple[Any, Any]:
    backend = make_backend(GPUTarget("cuda", architecture, 32))
    return backend, create_function_from_signature(kernel.signature, kernel.params, backend)


def compile_all(
    compilations: Iterable[Compilation], jobs: int, read_sass: bool = True
) -> Iterator[tuple[str, Resources]]:
    """Keys and resources, in the order in which they are ready.

    Where a compiler takes its process down, those that were being compiled run again alone.
    """
    waiting = {compilation.key: compilation for compilation in compilations}
    while waiting:
        with _pool(jobs) as pool:
            futures = {pool.submit(build, c, read_sass): key for key, c in waiting.items()}
            with contextlib.suppress(BrokenProcessPool):
                for future in as_completed(futures):
                    yield futures[future], future.result()
                    del waiting[futures[future]]
        for key in list(waiting)[: jobs + 1]:
            yield key, build_alone(waiting.pop(key), read_sass)


def build_alone(compilation: Compilation, read_sass: bool) -> Resources:
    """In a process that may die."""
    with _pool(1) as pool:
        try:
            return pool.submit(build, compilation, read_sass).result()
        except BrokenProcessPool:
            return Resources("the compiler ended its process")


def _pool(jobs: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        jobs, mp_context=get_context("forkserver"), initializer=_begin_worker
    )


def _begin_worker() -> None:
    """Triton and ptxas write the whole program where they fail: the error is one line."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Where the parent is killed, its workers would wait for work forever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def build(compilation: Compilation, read_sass: bool = True) -> Resources:
    """Compile and read."""
    function = getattr(importlib.import_module(compilation.module), compilation.kernel)
    source = ASTSource(
        fn=function, signature=compilation.signature, constexprs=compilation.constants,
        attrs=compilation.attributes,
    )  # fmt: skip
    target = GPUTarget("cuda", compilation.architecture, 32)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            compiled = triton.compile(source, target=target, options=dict(compilation.options))
    except Exception as error:  # of many kinds, from four compilers; it becomes a failed check
        return Resources(one_line(error))
    found = Resources("", compiled.metadata.shared, dots_of(compiled.asm["ttgir"]))
    return read(compiled.asm["cubin"], compilation, found) if read_sass else found


def one_line(error: Exception) -> str:
    """The line that says what is wrong: ptxas's own where it was ptxas."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"ptxas\S* (fatal|error)", line)] or lines
    return f"{type(error).__name__}: {(telling or ['no message'])[0]}"[:200]


def dots_of(ttgir: str) -> tuple[Dot, ...]:
    """The matrix products of a kernel in Triton's GPU dialect."""
    layouts = {name: (int(v), (int(m), int(n))) for name, v, m, n in LAYOUT.findall(ttgir)}
    found = [
        Dot(int(rows), int(columns), *layouts.get(layout, (0, (0, 0))))
        for rows, columns, layout in DOT.findall(ttgir)
    ]
    others = DOT_OF_TENSOR_MEMORY.findall(ttgir)
    return (*found, *(Dot(int(rows), int(columns), 5, (0, 0)) for rows, columns in others))


def read(cubin: bytes, compilation: Compilation, found: Resources) -> Resources:
    """`found` with what only the machine code shows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage = _tool("cuobjdump", "-res-usage", str(path))
        code = Code(_tool("nvdisasm", "-c", str(path)))
    registers = re.search(r"REG:(\d+)", usage)
    count, exponentials = code.count(), compilation.kernel not in WITHOUT_EXPONENTIALS
    return found._replace(
        registers=int(registers[1]) if registers else 0,
        loads=count["LDL"],
        stores=count["STL"],
        loop=inner_loop(code, exponentials) if found.dots else None,
    )


def _tool(name: str, *arguments: str) -> str:
    """The output of a tool that Triton ships."""
    path = getattr(triton.knobs.nvidia, name).path
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=True).stdout
