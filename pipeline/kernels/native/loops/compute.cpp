// One instruction set: PV_NAME, with PV_WIDTH floats in a vector and PV_REGISTERS vector registers.

#include "convolution.h"
#include "elementwise.h"
#include "products.h"

namespace packet_voice {

#define PV_JOIN_(a, b) a##b
#define PV_JOIN(a, b) PV_JOIN_(a, b)
#define PV_STRING_(x) #x
#define PV_STRING(x) PV_STRING_(x)

extern const Compute PV_JOIN(compute_, PV_NAME);
const Compute PV_JOIN(compute_, PV_NAME) = {
    PV_STRING(PV_NAME), prepared_floats, prepare, multiply, widen, rms_norm, layer_norm, gate, gelu, exponential_of,
    greatest, at_least, elu, add_scaled, rotate, attend, narrow, packed_floats, pack, convolve, panels,
};

}  // namespace packet_voice
