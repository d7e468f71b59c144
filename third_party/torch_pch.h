// Precompiled once and shared by every target that uses tensors; see CONTRIBUTING.md, "Compile times".
#pragma once

#include <ATen/ATen.h>
#include <torch/autograd.h>
#include <torch/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>
