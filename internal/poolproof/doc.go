// Package poolproof tests pools of several real processes that share hosts through a
// lease store on disk. It has nothing for users, and is a module of its own
// because of the database's driver.
package poolproof
