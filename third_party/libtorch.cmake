# Imported targets for the LibTorch that ships in the PyPI wheel.
#
# find_package(Torch) of this wheel needs a CUDA toolkit even for a CPU program and sets global architecture
# flags, so the targets are written out here:
#   dga::torch       CPU tensors and autograd (libtorch_cpu, libc10)
#   dga::torch_cuda  the same plus CUDA, cuDNN and NCCL; exists only where DGA_CUDA is on
#
# DGA_SITE_PACKAGES is the folder that holds torch/ and nvidia/ (scripts/setup.sh puts it under third_party/.venv).
if(NOT DGA_SITE_PACKAGES)
  file(GLOB DGA_SITE_PACKAGES "${CMAKE_SOURCE_DIR}/third_party/.venv/lib/python3*/site-packages")
  list(LENGTH DGA_SITE_PACKAGES found)
  if(NOT found EQUAL 1)
    message(FATAL_ERROR "LibTorch not found: run scripts/setup.sh, or pass -DDGA_SITE_PACKAGES=<folder that holds torch/>")
  endif()
endif()
set(torch_dir "${DGA_SITE_PACKAGES}/torch")
if(NOT EXISTS "${torch_dir}/lib/libtorch_cpu.so")
  message(FATAL_ERROR "no ${torch_dir}/lib/libtorch_cpu.so: run scripts/setup.sh")
endif()
file(STRINGS "${torch_dir}/version.py" torch_version_line REGEX "^__version__")
string(REGEX REPLACE ".*'([0-9.]+).*" "\\1" DGA_TORCH_VERSION "${torch_version_line}")
if(NOT DGA_TORCH_VERSION VERSION_EQUAL 2.11.0)
  message(FATAL_ERROR "LibTorch ${DGA_TORCH_VERSION} in ${torch_dir}; this project is built against 2.11.0")
endif()

# libtorch_cpu.so of the wheel needs libcudart and libcupti of the nvidia wheels even on a CPU machine.
file(GLOB nvidia_lib_dirs "${DGA_SITE_PACKAGES}/nvidia/*/lib")
set(DGA_RUNTIME_PATHS "${torch_dir}/lib" ${nvidia_lib_dirs})

find_package(Threads REQUIRED)
add_library(dga_torch INTERFACE)
add_library(dga::torch ALIAS dga_torch)
target_include_directories(dga_torch SYSTEM INTERFACE "${torch_dir}/include" "${torch_dir}/include/torch/csrc/api/include")
target_compile_definitions(dga_torch INTERFACE USE_DISTRIBUTED USE_C10D_GLOO USE_RPC USE_TENSORPIPE)
target_link_libraries(dga_torch INTERFACE "${torch_dir}/lib/libtorch_cpu.so" "${torch_dir}/lib/libc10.so" Threads::Threads)
target_link_options(dga_torch INTERFACE LINKER:--allow-shlib-undefined)

if(DGA_CUDA)
  find_package(CUDAToolkit REQUIRED)
  if(NOT CUDAToolkit_VERSION_MAJOR EQUAL 13)
    message(FATAL_ERROR "the LibTorch wheel was built for CUDA 13, this toolkit is CUDA ${CUDAToolkit_VERSION}; "
                        "install CUDA 13.0 or configure with -DDGA_CUDA=OFF")
  endif()
  add_library(dga_torch_cuda INTERFACE)
  add_library(dga::torch_cuda ALIAS dga_torch_cuda)
  # The wheel's nccl and cudnn headers match its libraries; they go before any system copy.
  target_include_directories(dga_torch_cuda SYSTEM BEFORE INTERFACE
    "${DGA_SITE_PACKAGES}/nvidia/nccl/include" "${DGA_SITE_PACKAGES}/nvidia/cudnn/include")
  target_compile_definitions(dga_torch_cuda INTERFACE USE_C10D_NCCL USE_NVSHMEM)
  target_link_libraries(dga_torch_cuda INTERFACE dga_torch
    "-Wl,--push-state,--no-as-needed,${torch_dir}/lib/libtorch_cuda.so,--pop-state"
    "${torch_dir}/lib/libc10_cuda.so" "${DGA_SITE_PACKAGES}/nvidia/nccl/lib/libnccl.so.2" CUDA::cudart)
endif()
