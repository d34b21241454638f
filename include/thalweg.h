/* libthalweg: adaptive congestion control for collectives. Generated from ffi/src; do not edit. */

#ifndef THALWEG_H
#define THALWEG_H

#include <stddef.h>
#include <stdint.h>

/*
 Version of this header; the library's own is what `thalweg_version` says.
 */
#define THALWEG_VERSION_MAJOR 0

/*
 See `THALWEG_VERSION_MAJOR`.
 */
#define THALWEG_VERSION_MINOR 1

/*
 See `THALWEG_VERSION_MAJOR`.
 */
#define THALWEG_VERSION_PATCH 0

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 The version of the library that is loaded, such as "1.2.3". The string is never freed. May be
 called at any time, from any thread.
 */
const char *thalweg_version(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* THALWEG_H */
