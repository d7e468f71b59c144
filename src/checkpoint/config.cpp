#include "checkpoint/config.h"

namespace dga {

void CheckpointConfig::fields(config::Fields& f) {
  f.field("every_steps", every_steps, "steps between checkpoints; 0 saves at the end and on a stop signal only",
          config::at_least(0));
  f.field("keep_last", keep_last, "newest checkpoints to keep", config::at_least(1));
  f.field("keep_every", keep_every, "also keep those whose step is a multiple of this; 0 for none",
          config::at_least(0));
  f.field("background", background, "write from a copy in memory while training goes on");
}

}  // namespace dga
