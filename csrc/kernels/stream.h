// The CUDA stream without a CUDA header, for code that a machine without the toolkit compiles.
#pragma once

struct CUstream_st;

namespace jacfast {
using Stream = CUstream_st*;
}
