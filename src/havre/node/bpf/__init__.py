"""eBPF from Python: objects are loaded by libbpf, everything else is the bpf(2) call.

    load      packaged `.bpf.o` → programs and maps, those of an earlier run taken over from their pins
    maps      typed maps: update, look up, delete, in batches
    links     programs attached: tcx (or tc on kernels before 6.6) and cgroups, replaced in one step, taken off
    pins      the bpffs where all of it outlives our process
    probe     what this kernel can do, for `havre doctor`
    call      bpf(2) itself
    libbpf    libbpf.so.1 by ctypes
    include/  C that several programs share

The C sources lie beside the Python that feeds them; `tools/bpf.sh` compiles them to the `.bpf.o` that are packaged.
Source: linux/bpf.h; libbpf's libbpf.h.
"""
