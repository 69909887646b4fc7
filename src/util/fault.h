/*-------------------------------------------------------------------------
 *
 * fault.h
 *	  Named points where tests make things go wrong.
 *
 * Compiled in with make FAULTS=1 only.  What happens where is said as
 * point=action, in one of two places:
 *	 - the file refit_fault in the data directory, for one time: whoever gets to
 *	   the point renames it to refit_fault.reached first, so that the test
 *	   knows, and nobody who comes after a crash does the same again;
 *	 - the setting refit.fault, for every time.
 *
 * The actions: error; kill (SIGKILL of this process); stop (immediate stop of
 * the server); sleep (ten seconds); wait (until refit_fault.reached is removed;
 * interruptible).  A file is read at the point itself, so unlike a setting it
 * is in force as soon as it is there.
 *
 * REFIT_FAULT takes the point's name as a literal, which tests look for in the
 * source; REFIT_FAULT_IN makes a point of each phase.  While there is a file
 * refit_fault.trace, every point that is reached is added to it.
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
#define REFIT_FAULT_IN(phase, edge) \
	refit_fault_reached(psprintf("%s.%s", phase, edge))
#else
#define REFIT_FAULT(point) ((void) 0)
#define REFIT_FAULT_IN(phase, edge) ((void) 0)
#endif

#endif /* REFIT_FAULT_H */
