// Chooses the instruction set, once per process.

#pragma once

#include <string>

#include "compute.h"

namespace packet_voice {

// The names of the instruction sets that this library has and this processor executes, the best first.
std::string supported();

// Use the instruction set `name`, one of `supported`; false if it is not.
bool choose(const std::string& name);

// The chosen one; null before `choose`.
const Compute* compute();

}  // namespace packet_voice
