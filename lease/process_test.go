package lease

func childMain() int { return 0 }
