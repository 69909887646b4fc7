/*-------------------------------------------------------------------------
 *
 * fault.h
 *	  Named points where tests make things go wrong.
 *
 * Compiled in with make FAULTS=1 only.  The setting refit.fault names a point
 * and what happens there: 'cutover.swapped=error', '=kill' (SIGKILL of this
 * process), '=stop' (immediate stop of the server) or '=sleep' (ten seconds).
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_FAULT_H
#define REFIT_FAULT_H

#ifdef REFIT_FAULTS
extern char *refit_fault_setting;
extern void refit_fault_define(void);
extern void refit_fault_reached(const char *point);
#define REFIT_FAULT(point) refit_fault_reached(point)
#else
#define REFIT_FAULT(point) ((void) 0)
#endif

#endif /* REFIT_FAULT_H */
