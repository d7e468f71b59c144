#pragma once

#include "data/tokenizer.h"
#include "dist/agreement.h"
#include "run/run_config.h"

namespace dga {

/// What must be the same in all processes of a run: the build, every field of the config but those about where and how
/// a process works, the files of model and data by name and size, and the tokenizer. `tokenizer` may be null.
Facts run_facts(const LoadedRun& run, const Tokenizer* tokenizer);

}  // namespace dga
